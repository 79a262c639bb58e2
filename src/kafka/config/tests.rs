use std::time::Duration;

use chrono::DateTime;
use proptest::prelude::*;

use super::settings::{Kind, SETTINGS};
use super::{Acks, KafkaCompression, KafkaConfig, SaslMechanism, SecurityProtocol};
use crate::error::ErrorKind;
use crate::kafka::OAuthToken;

fn base() -> KafkaConfig {
    KafkaConfig::new("localhost:9092")
}

fn scram() -> KafkaConfig {
    base().security_protocol(SecurityProtocol::SaslPlaintext).sasl_mechanism(SaslMechanism::ScramSha256)
}

#[track_caller]
fn refused(config: &KafkaConfig, parts: &[&str]) {
    let error = config.validate().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{error} does not say {part}");
    }
}

#[test]
fn what_is_set_is_told() {
    let config = base()
        .client_id("billing")
        .acks(Acks::All)
        .idempotence(true)
        .compression(KafkaCompression::Lz4)
        .linger(Duration::from_millis(7))
        .batch_size(12345)
        .request_timeout(Duration::from_secs(3))
        .delivery_timeout(Duration::from_secs(20))
        .transaction_timeout(Duration::from_secs(40))
        .property("socket.keepalive.enable", "true");
    config.validate().unwrap();
    assert_eq!(config.wait(), Duration::from_secs(3));
    let (producer, consumer) = (config.producer(), config.consumer());
    for (name, value) in [
        ("bootstrap.servers", "localhost:9092"),
        ("client.id", "billing"),
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("compression.type", "lz4"),
        ("linger.ms", "7"),
        ("batch.size", "12345"),
        ("request.timeout.ms", "3000"),
        ("delivery.timeout.ms", "20000"),
        ("transaction.timeout.ms", "40000"),
        ("socket.keepalive.enable", "true"),
    ] {
        assert_eq!(producer.get(name), Some(value), "{name}");
    }
    assert_eq!(consumer.get("linger.ms"), None);
    for (name, value) in [
        ("isolation.level", "read_committed"),
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "error"),
        ("socket.keepalive.enable", "true"),
    ] {
        assert_eq!(consumer.get(name), Some(value), "{name}");
    }
    // What nobody set is safe.
    assert_eq!(base().producer().get("enable.idempotence"), Some("true"));
    assert_eq!(base().producer().get("acks"), Some("all"));
    assert_eq!(base().client().get("client.id"), Some("annals"));
}

#[test]
fn the_file_and_the_variables_say_the_same_as_the_builder() {
    let built = KafkaConfig::new("a:1,b:2")
        .client_id("x")
        .acks(Acks::All)
        .idempotence(true)
        .compression(KafkaCompression::Zstd)
        .linger(Duration::from_millis(5))
        .batch_size(1 << 20)
        .request_timeout(Duration::from_secs(10))
        .delivery_timeout(Duration::from_secs(30))
        .transaction_timeout(Duration::from_secs(60))
        .security_protocol(SecurityProtocol::SaslSsl)
        .sasl_mechanism(SaslMechanism::ScramSha512)
        .sasl_username("me")
        .sasl_password("hunter2")
        .ca_file("ca.pem")
        .client_certificate("cert.pem", "key.pem")
        .key_password("swordfish")
        .verify_host_name(false);
    let file = KafkaConfig::from_toml(
        r#"
        [log]
        journal_bytes = "64MiB"

        [kafka]
        bootstrap_servers = ["a:1", "b:2"]
        client_id = "x"
        acks = -1
        enable_idempotence = true
        compression_type = "ZSTD"
        linger = "5ms"
        batch_size = "1MiB"
        request_timeout = "10s"
        delivery_timeout = "30s"
        transaction_timeout = "1m"
        security_protocol = "sasl_ssl"
        sasl_mechanism = "scram-sha-512"
        sasl_username = "me"
        sasl_password = "hunter2"
        ssl_ca_location = "ca.pem"
        ssl_certificate_location = "cert.pem"
        ssl_key_location = "key.pem"
        ssl_key_password = "swordfish"
        ssl_endpoint_identification_algorithm = "none"
        "#,
    )
    .unwrap();
    assert_eq!(file, built);
    let variables = [
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:2"),
        ("KAFKA_CLIENT_ID", "x"),
        ("KAFKA_ACKS", "all"),
        ("KAFKA_ENABLE_IDEMPOTENCE", "true"),
        ("KAFKA_COMPRESSION_TYPE", "zstd"),
        ("KAFKA_LINGER_MS", "5"),
        ("KAFKA_BATCH_SIZE", "1048576"),
        ("KAFKA_REQUEST_TIMEOUT_MS", "10000"),
        ("KAFKA_DELIVERY_TIMEOUT_MS", "30000"),
        ("KAFKA_TRANSACTION_TIMEOUT_MS", "60000"),
        ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
        ("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512"),
        ("KAFKA_SASL_USERNAME", "me"),
        ("KAFKA_SASL_PASSWORD", "hunter2"),
        ("KAFKA_SSL_CA_LOCATION", "ca.pem"),
        ("KAFKA_SSL_CERTIFICATE_LOCATION", "cert.pem"),
        ("KAFKA_SSL_KEY_LOCATION", "key.pem"),
        ("KAFKA_SSL_KEY_PASSWORD", "swordfish"),
        ("KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM", "none"),
    ];
    assert_eq!(variables.len(), SETTINGS.len(), "each setting has a variable");
    assert_eq!(KafkaConfig::default().with_vars(variables).unwrap(), built);
    // Variables win, and those of a broker are let be.
    let both = file.with_vars([("KAFKA_CLIENT_ID", "y"), ("KAFKA_HOME", "/opt/kafka"), ("KAFKA_HEAP_OPTS", "-Xmx1g")]);
    assert_eq!(both.unwrap(), built.client_id("y"));
    assert_eq!(KafkaConfig::from_toml("[log]\n").unwrap(), KafkaConfig::default());
}

#[test]
fn the_documentation_is_complete() {
    let text = include_str!("../../../docs/CONFIGURATION.md");
    for setting in SETTINGS {
        let row = format!("| `{}` | `{}` |", setting.key, setting.variable());
        assert!(text.contains(&row), "{row} is not there");
    }
    let section = text.split("```toml\n[kafka]").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let config = KafkaConfig::from_toml(&format!("[kafka]{section}")).unwrap().sasl_password("x");
    // All but the file is there.
    refused(&config, &["`ssl_ca_location` is \"/etc/ssl/kafka-ca.pem\""]);
}

#[test]
fn a_wrong_value_is_named_with_what_is_allowed() {
    let cases = [
        ("linger = 5", "`kafka.linger` is 5; 0s to 15m are allowed"),
        ("linger = \"1h\"", "`kafka.linger` is \"1h\"; 0s to 15m are allowed"),
        ("linger = \"5us\"", "`kafka.linger` is \"5us\""),
        ("batch_size = 0", "`kafka.batch_size` is 0; 1B to"),
        ("compression_type = \"rar\"", "\"none\", \"gzip\", \"snappy\", \"lz4\" and \"zstd\" are allowed"),
        ("security_protocol = \"TLS\"", "\"SASL_SSL\" are allowed"),
        ("enable_idempotence = \"yes\"", "`kafka.enable_idempotence` is \"yes\"; true and false are allowed"),
        ("bootstrap_servers = \"a\"", "`kafka.bootstrap_servers` names the server \"a\"; host:port is allowed"),
        ("client_id = \"\"", "text that is not empty"),
        ("bootstrap_server = \"a:1\"", "did you mean `bootstrap_servers`?"),
        ("colour = 1", "further properties of the client library go into `kafka.properties`"),
        ("properties = 1", "`kafka.properties` is no table"),
        ("properties = { x = [] }", "no text, number or flag for \"x\""),
    ];
    for (line, part) in cases {
        let error = KafkaConfig::from_toml(&format!("[kafka]\n{line}\n")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{line}");
        assert!(error.to_string().contains(part), "{line}: {error}");
    }
    let error = KafkaConfig::from_toml("kafka = 1").unwrap_err();
    assert!(error.to_string().contains("a table is allowed"), "{error}");
    let error = base().with_vars([("KAFKA_LINGER_MS", "5ms")]).unwrap_err();
    assert_eq!(error.to_string(), "`KAFKA_LINGER_MS` is \"5ms\"; 0 to 900000 milliseconds are allowed");
}

#[test]
fn servers_are_host_and_port() {
    for good in ["a:1", "a.b-c.example:65535", "127.0.0.1:9092", "[::1]:9092", "a:1, b:2"] {
        KafkaConfig::new(good).validate().unwrap();
    }
    for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "a:x", "::1:9092", "[x]:1", "a b:1", "a:1,", "SSL://a:1", "a:+1"]
    {
        refused(&KafkaConfig::new(bad), &["`bootstrap_servers`", "host:port is allowed"]);
    }
    refused(&KafkaConfig::default(), &["`bootstrap_servers` is not set", "KAFKA_BOOTSTRAP_SERVERS"]);
}

#[test]
fn contradictions_are_found_before_connecting() {
    refused(&base().acks(Acks::Leader), &["`acks` is \"1\"; \"all\" is allowed"]);
    refused(&base().acks(Acks::None), &["`acks` is \"0\""]);
    refused(&base().idempotence(false), &["`enable_idempotence` is false; true is allowed"]);
    refused(&base().sasl_username("me"), &["`sasl_username`", "PLAINTEXT; SASL_PLAINTEXT or SASL_SSL is allowed"]);
    refused(&base().sasl_mechanism(SaslMechanism::Plain), &["`sasl_mechanism` is set"]);
    refused(&base().verify_host_name(true), &["`ssl_endpoint_identification_algorithm`", "SSL or SASL_SSL is allowed"]);
    refused(&base().security_protocol(SecurityProtocol::SaslSsl), &["`sasl_mechanism` is not set"]);
    refused(&scram().sasl_password("x"), &["`sasl_username` is not set", "SCRAM-SHA-256"]);
    refused(&scram().sasl_username("x"), &["`sasl_password` is not set"]);
    scram().sasl_username("x").sasl_password("y").validate().unwrap();
    let oauth = scram().sasl_mechanism(SaslMechanism::OAuthBearer);
    let token = || Ok(OAuthToken::new("hunter2", "me", DateTime::from_timestamp_nanos(0)));
    refused(&oauth, &["needs a function for tokens"]);
    oauth.clone().oauth_token(token).validate().unwrap();
    refused(&oauth.clone().oauth_token(token).sasl_password("x"), &["`sasl_password` is set", "OAUTHBEARER"]);
    refused(
        &scram().sasl_username("x").sasl_password("y").oauth_token(token),
        &["SCRAM-SHA-256", "OAUTHBEARER is allowed"],
    );
    refused(&base().oauth_token(token), &["PLAINTEXT"]);
    let delivery = base().delivery_timeout(Duration::from_secs(2));
    refused(&delivery.clone().linger(Duration::from_secs(2)), &["more than `linger`, 2000ms"]);
    refused(&delivery.transaction_timeout(Duration::from_secs(1)), &["at most `transaction_timeout`, 1000ms"]);
    refused(
        &base().linger(Duration::from_secs(901)),
        &["`linger` is \"901000\"; 0 to 900000 milliseconds are allowed"],
    );
    refused(&base().request_timeout(Duration::ZERO), &["`request_timeout`"]);
}

#[test]
fn files_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let (here, gone) = (dir.path().join("here.pem"), dir.path().join("gone.pem"));
    let (_, key, certificate) = pem();
    std::fs::write(&here, key + &certificate).unwrap();
    let ssl = base().security_protocol(SecurityProtocol::Ssl);
    ssl.clone().ca_file(&here).client_certificate(&here, &here).validate().unwrap();
    refused(&ssl.clone().ca_file(&gone), &["`ssl_ca_location` is", "gone.pem", "can be read is allowed"]);
    refused(&ssl.clone().client_certificate(&gone, &here), &["`ssl_certificate_location`", "gone.pem"]);
    refused(&ssl.clone().client_certificate(&here, &gone), &["`ssl_key_location`", "gone.pem"]);
    let here = here.to_str().unwrap();
    refused(&ssl.clone().property("ssl.certificate.location", here), &["goes with its key"]);
    refused(&ssl.clone().property("ssl.key.location", here), &["goes with its client certificate"]);
    refused(&ssl.key_password("x"), &["the password goes with a key"]);
}

/// A name for each, and text that stands for a key and a certificate: nothing of it is parsed before a client is made.
fn pem() -> (&'static str, String, String) {
    let block = |what: &str| format!("-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n");
    ("test", block("PRIVATE KEY"), block("CERTIFICATE"))
}

#[test]
fn what_would_take_a_promise_away_is_refused_with_a_reason() {
    for (name, why) in [
        ("transactional.id", "fences a second instance"),
        ("max.in.flight", "records keep their order"),
        ("max.in.flight.requests.per.connection", "records keep their order"),
        ("enable.auto.commit", "committed together"),
        ("enable.auto.offset.store", "committed together"),
        ("auto.offset.reset", "lose records"),
        ("isolation.level", "only what is committed"),
        ("group.id", "the group is"),
        ("allow.auto.create.topics", "on request only"),
    ] {
        refused(&base().property(name, "1"), &[name, why]);
    }
    refused(&base().property("enable.idempotence", "false"), &["`enable_idempotence` is false"]);
    refused(&base().property("request.required.acks", "1"), &["`acks` is \"1\""]);
    refused(&base().property("no.such.property", "1"), &["no.such.property"]);
    refused(&base().property("socket.keepalive.enable", "perhaps"), &["socket.keepalive.enable"]);
    refused(&base().property("client.rack", "a\0b"), &["refused"]);
}

#[test]
fn no_secret_is_ever_shown() {
    const SECRET: &str = "hunter2-Zq8";
    let secrets = || SETTINGS.iter().filter(|setting| matches!(setting.kind, Kind::Secret));
    assert_eq!(secrets().count(), 2);
    let mut said = Vec::new();
    let mut configs = vec![
        scram().sasl_username("me").sasl_password(SECRET),
        base().sasl_password(SECRET),
        base().property("ssl.key.pem", SECRET).security_protocol(SecurityProtocol::Ssl),
        base().property("ssl.keystore.password", SECRET),
        base().property("sasl.jaas.config", SECRET),
        base().property("sasl.oauthbearer.client.secret", SECRET),
        base().property("no.such.password", SECRET),
        base().sasl_password(format!("{SECRET}\0")),
        base().property("ssl.key.pem", format!("{SECRET}\0")),
    ];
    let token = || Ok(OAuthToken::new(SECRET, "me", DateTime::from_timestamp_nanos(0)));
    said.push(format!("{:?}", token().map_err(|error: crate::kafka::TokenError| error.to_string())));
    configs.push(scram().sasl_mechanism(SaslMechanism::OAuthBearer).oauth_token(token));
    for setting in secrets() {
        for line in [format!("{} = [\"{SECRET}\"]", setting.key), format!("{} = \"{SECRET}", setting.key)] {
            let error = KafkaConfig::from_toml(&format!("[kafka]\n{line}")).unwrap_err();
            said.push(format!("{error} {error:?}"));
        }
        let error = base().with_vars([(setting.variable(), format!("{SECRET}\0"))]).unwrap_err();
        said.push(format!("{error} {error:?}"));
    }
    for config in &configs {
        said.push(format!("{config:?} {config:#?}"));
        if let Err(error) = config.validate() {
            said.push(format!("{error} {error:?}"));
        }
        if let Err(error) = crate::kafka::Admin::new(config) {
            said.push(format!("{error} {error:?}"));
        }
    }
    assert!(said.iter().any(|said| said.contains("***")));
    for said in said {
        assert!(!said.contains(SECRET), "{said}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_an_error(text: String, key in "[a-z_]{1,20}", value in ".{0,20}", number: i64) {
        let keys = SETTINGS.iter().map(|setting| setting.key).chain([key.as_str()]);
        let lines = keys.flat_map(|key| [format!("{key} = {value:?}"), format!("{key} = {number}"), format!("{key} = {text}")]);
        for line in lines {
            if let Ok(config) = KafkaConfig::from_toml(&format!("[kafka]\n{line}\n")) {
                let _ = config.validate();
            }
        }
        for setting in SETTINGS {
            let _ = KafkaConfig::default().with_vars([(setting.variable(), &text)]);
        }
        let _ = (KafkaConfig::from_toml(&text), base().property(key, value).validate());
    }
}
