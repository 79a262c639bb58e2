//! Brokers that want to know who it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use annals::mirror::{ErrorClass, KafkaConfig, OAuthToken, SaslMechanism, SecurityProtocol};
use annals::{ErrorKind, Log};
use chrono::{DateTime, Utc};

use super::support::{Writer, caught_up, numbers, source, texts};
use crate::support::{Broker, Options, PATIENCE, password, until};

#[tokio::test]
async fn it_says_who_it_is_and_ends_where_it_is_not_let_in() {
    let Some(broker) = Broker::start(Options::new().tls().sasl()) else { return };
    let topic = broker.unique("secure");
    broker.create_topic(&topic, 1).await;
    Writer::new(&broker).write_texts(&topic, 0, numbers(0..10));
    let tls = || KafkaConfig::new(broker.tls_bootstrap()).security_protocol(SecurityProtocol::Ssl).ca_file(broker.ca());
    let mutual = || tls().bootstrap_servers(broker.mutual_tls_bootstrap());
    let certificate = broker.client_certificate();
    let scram = |mechanism, password: &str| {
        KafkaConfig::new(broker.sasl_bootstrap())
            .security_protocol(SecurityProtocol::SaslPlaintext)
            .sasl_mechanism(mechanism)
            .sasl_username("reader")
            .sasl_password(password)
    };
    let secret = password("reader");
    let over_tls = || scram(SaslMechanism::ScramSha512, &secret).security_protocol(SecurityProtocol::SaslSsl);
    let let_in = [
        tls(),
        mutual().client_certificate(certificate, broker.client_key()),
        mutual().client_certificate(certificate, broker.client_key_encrypted()).key_password("client-secret"),
        scram(SaslMechanism::ScramSha256, &secret),
        scram(SaslMechanism::ScramSha512, &secret),
        scram(SaslMechanism::Plain, &secret),
        over_tls().bootstrap_servers(broker.sasl_tls_bootstrap()).ca_file(broker.ca()),
    ];
    for (number, kafka) in let_in.into_iter().enumerate() {
        let log = Log::in_memory().unwrap();
        let reading = source(&log, &broker, &[&topic]).from(kafka).spawn().unwrap();
        caught_up(&reading).await;
        assert_eq!(texts(&log, &topic, 0).len(), 10, "{number}");
        reading.stop().await.unwrap();
    }
    let wrong = "hunter2-Zq8";
    let turned_away = [
        tls().ca_file(broker.other_ca()),
        scram(SaslMechanism::ScramSha512, wrong),
        scram(SaslMechanism::Plain, wrong),
    ];
    for (number, kafka) in turned_away.into_iter().enumerate() {
        let log = Log::in_memory().unwrap();
        let reading = source(&log, &broker, &[&topic]).from(kafka).spawn().unwrap();
        let mut errors = reading.errors();
        let ended = tokio::time::timeout(PATIENCE, reading.ended()).await;
        let refused = ended.unwrap_or_else(|_| panic!("{number}: {:?}", reading.status())).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{number}: {refused}");
        assert!(!format!("{refused} {refused:?} {:?}", reading.status()).contains(wrong));
        while let Ok(met) = errors.try_recv() {
            assert!(!format!("{met:?}").contains(wrong));
            assert!(matches!(met.class, ErrorClass::Passing | ErrorClass::Fatal));
        }
    }
}

/// A token that nobody has signed, as the test broker takes them.
fn token(user: &str, ends: DateTime<Utc>) -> String {
    let base64 = |text: &str| {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut encoded = String::new();
        for bytes in text.as_bytes().chunks(3) {
            let bits =
                bytes.iter().enumerate().fold(0_u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
            (0..=bytes.len()).for_each(|at| encoded.push(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize].into()));
        }
        encoded
    };
    let (now, ends) = (Utc::now().timestamp(), ends.timestamp());
    let claims = format!(r#"{{"sub":"{user}","iat":{now},"exp":{ends}}}"#);
    format!("{}.{}.", base64(r#"{"alg":"none"}"#), base64(&claims))
}

#[tokio::test]
async fn tokens_come_from_a_function() {
    let Some(broker) = Broker::start(Options::new().sasl()) else { return };
    let topic = broker.unique("tokens");
    broker.create_topic(&topic, 1).await;
    Writer::new(&broker).write_texts(&topic, 0, numbers(0..10));
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let oauth = KafkaConfig::new(broker.sasl_bootstrap())
        .security_protocol(SecurityProtocol::SaslPlaintext)
        .sasl_mechanism(SaslMechanism::OAuthBearer);
    let kafka = oauth.clone().oauth_token(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let ends = Utc::now() + chrono::Duration::seconds(5);
        Ok(OAuthToken::new(token("reader", ends), "reader", ends))
    });
    let log = Log::in_memory().unwrap();
    let reading = source(&log, &broker, &[&topic]).from(kafka).spawn().unwrap();
    caught_up(&reading).await;
    assert_eq!(texts(&log, &topic, 0).len(), 10);
    // Before one ends there is the next.
    let first = calls.load(Ordering::Relaxed);
    until("it is asked for another token", async || calls.load(Ordering::Relaxed) > first).await;
    reading.stop().await.unwrap();
    // Without one nobody is let in, and it says why.
    let failing = oauth.oauth_token(|| Err("the vault is shut".into()));
    let log = Log::in_memory().unwrap();
    let reading = source(&log, &broker, &[&topic]).from(failing).spawn().unwrap();
    let ended = tokio::time::timeout(PATIENCE, reading.ended()).await;
    let refused = ended.unwrap_or_else(|_| panic!("{:?}", reading.status())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
    assert!(refused.to_string().contains("the vault is shut"), "{refused}");
}

/// Connections that end in the middle of a handshake are no refusal.
#[tokio::test]
async fn brokers_that_are_killed_have_refused_nobody() {
    let Some(broker) = Broker::start(Options::new().tls().sasl()) else { return };
    let topic = broker.unique("handshakes");
    broker.create_topic(&topic, 1).await;
    let kafka = KafkaConfig::new(broker.sasl_tls_bootstrap())
        .security_protocol(SecurityProtocol::SaslSsl)
        .sasl_mechanism(SaslMechanism::ScramSha512)
        .sasl_username("reader")
        .sasl_password(password("reader"))
        .ca_file(broker.ca());
    let log = Log::in_memory().unwrap();
    let reading = source(&log, &broker, &[&topic]).from(kafka).spawn().unwrap();
    for round in 1..=3 {
        Writer::new(&broker).write_texts(&topic, 0, numbers(0..10));
        caught_up(&reading).await;
        assert_eq!(texts(&log, &topic, 0).len(), 10 * round);
        broker.kill();
        broker.restart();
    }
    caught_up(&reading).await;
    reading.stop().await.unwrap();
}

#[tokio::test]
async fn a_topic_that_it_may_not_read_is_paused_and_the_others_go_on() {
    let Some(broker) = Broker::start(Options::new().sasl().acl()) else { return };
    let as_user = |user: &str| {
        KafkaConfig::new(broker.sasl_bootstrap())
            .security_protocol(SecurityProtocol::SaslPlaintext)
            .sasl_mechanism(SaslMechanism::ScramSha256)
            .sasl_username(user)
            .sasl_password(password(user))
    };
    let topic = broker.unique("allowed");
    broker.create_topic(&topic, 1).await;
    let log = Log::in_memory().unwrap();
    let reading = source(&log, &broker, &[&topic]).from(as_user("nobody")).spawn().unwrap();
    let mut errors = reading.errors();
    let met = super::support::error_with(&mut errors, &topic).await;
    assert_eq!((met.class, met.error.kind()), (ErrorClass::Partition, ErrorKind::Denied), "{met:?}");
    // Whoever may read the topic needs no right to a consumer group.
    Writer::new(&broker).write_texts(&topic, 0, numbers(0..10));
    let user = ["--add", "--allow-principal", "User:nobody", "--operation", "Read", "--topic", &topic];
    broker.tool("acls", &[&["--bootstrap-server", broker.bootstrap()][..], &user].concat());
    reading.resume();
    until("it may read", async || texts_if_any(&log, &topic).len() == 10).await;
    caught_up(&reading).await;
    reading.stop().await.unwrap();
}

fn texts_if_any(log: &Log, topic: &str) -> Vec<String> {
    log.raw_topic(topic).map(|_| texts(log, topic, 0)).unwrap_or_default()
}
