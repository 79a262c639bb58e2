//! Which settings there are: what they are called in a file, in the environment and by the client library, and what they may be.

use std::fmt;
use std::time::Duration;

use super::secret::Secret;
use crate::error::{Error, Result};
use crate::text::quoted;
use crate::units::{parse_size, parse_time, shown_size, shown_time};

/// What a value may be. All of them are text here, as the client library has them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    /// Text that is never shown.
    Secret,
    /// `host:port`, separated by commas.
    Servers,
    /// A file that must be there.
    File,
    Flag,
    /// One of these, in capitals or not; what is kept is written as here.
    Word(&'static [&'static str]),
    /// Whole milliseconds.
    Millis {
        min: u64,
        max: u64,
    },
    Bytes {
        min: u64,
        max: u64,
    },
}

/// Which clients are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Client,
    Producer,
}

#[derive(Debug)]
pub(super) struct Setting {
    /// In a file, in the section `[kafka]`.
    pub(super) key: &'static str,
    /// Of the client library.
    pub(super) property: &'static str,
    pub(super) kind: Kind,
    pub(super) scope: Scope,
}

impl Setting {
    /// The usual variable: the property in capitals.
    pub(super) fn variable(&self) -> String {
        variable(self.property)
    }

    pub(super) fn by_key(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    pub(super) fn by_property(property: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.property == property)
    }
}

pub(super) fn variable(property: &str) -> String {
    format!("KAFKA_{}", property.replace('.', "_").to_ascii_uppercase())
}

const fn client(key: &'static str, property: &'static str, kind: Kind) -> Setting {
    Setting { key, property, kind, scope: Scope::Client }
}

const fn producer(key: &'static str, property: &'static str, kind: Kind) -> Setting {
    Setting { key, property, kind, scope: Scope::Producer }
}

pub(super) const BOOTSTRAP_SERVERS: &str = "bootstrap.servers";
pub(super) const CLIENT_ID: &str = "client.id";
pub(super) const SECURITY_PROTOCOL: &str = "security.protocol";
pub(super) const SASL_MECHANISM: &str = "sasl.mechanism";
pub(super) const SASL_USERNAME: &str = "sasl.username";
pub(super) const SASL_PASSWORD: &str = "sasl.password";
pub(super) const SSL_CA: &str = "ssl.ca.location";
pub(super) const SSL_CERTIFICATE: &str = "ssl.certificate.location";
pub(super) const SSL_KEY: &str = "ssl.key.location";
pub(super) const SSL_KEY_PASSWORD: &str = "ssl.key.password";
pub(super) const SSL_ENDPOINT: &str = "ssl.endpoint.identification.algorithm";
pub(super) const ACKS: &str = "acks";
pub(super) const IDEMPOTENCE: &str = "enable.idempotence";
pub(super) const COMPRESSION: &str = "compression.type";
pub(super) const LINGER: &str = "linger.ms";
pub(super) const BATCH_SIZE: &str = "batch.size";
pub(super) const REQUEST_TIMEOUT: &str = "request.timeout.ms";
pub(super) const DELIVERY_TIMEOUT: &str = "delivery.timeout.ms";
pub(super) const TRANSACTION_TIMEOUT: &str = "transaction.timeout.ms";

pub(super) const SETTINGS: &[Setting] = &[
    client("bootstrap_servers", BOOTSTRAP_SERVERS, Kind::Servers),
    client("client_id", CLIENT_ID, Kind::Text),
    client("security_protocol", SECURITY_PROTOCOL, Kind::Word(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])),
    client("sasl_mechanism", SASL_MECHANISM, Kind::Word(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"])),
    client("sasl_username", SASL_USERNAME, Kind::Text),
    client("sasl_password", SASL_PASSWORD, Kind::Secret),
    client("ssl_ca_location", SSL_CA, Kind::File),
    client("ssl_certificate_location", SSL_CERTIFICATE, Kind::File),
    client("ssl_key_location", SSL_KEY, Kind::File),
    client("ssl_key_password", SSL_KEY_PASSWORD, Kind::Secret),
    client("ssl_endpoint_identification_algorithm", SSL_ENDPOINT, Kind::Word(&["https", "none"])),
    producer("acks", ACKS, Kind::Word(&["all", "-1", "1", "0"])),
    producer("enable_idempotence", IDEMPOTENCE, Kind::Flag),
    producer("compression_type", COMPRESSION, Kind::Word(&["none", "gzip", "snappy", "lz4", "zstd"])),
    producer("linger", LINGER, Kind::Millis { min: 0, max: 900_000 }),
    producer("batch_size", BATCH_SIZE, Kind::Bytes { min: 1, max: i32::MAX as u64 }),
    producer("request_timeout", REQUEST_TIMEOUT, Kind::Millis { min: 1, max: 900_000 }),
    producer("delivery_timeout", DELIVERY_TIMEOUT, Kind::Millis { min: 1, max: i32::MAX as u64 }),
    producer("transaction_timeout", TRANSACTION_TIMEOUT, Kind::Millis { min: 1000, max: i32::MAX as u64 }),
];

/// Other names that the client library has for the same.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("metadata.broker.list", BOOTSTRAP_SERVERS),
    ("sasl.mechanisms", SASL_MECHANISM),
    ("request.required.acks", ACKS),
    ("compression.codec", COMPRESSION),
    ("queue.buffering.max.ms", LINGER),
    ("message.timeout.ms", DELIVERY_TIMEOUT),
];

/// Properties that would take away what this crate promises, and why.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("transactional.id", "it is chosen for each log, and fences a second instance of it"),
    ("max.in.flight", "records keep their order with what the idempotent producer allows"),
    ("max.in.flight.requests.per.connection", "records keep their order with what the idempotent producer allows"),
    ("message.send.max.retries", "the idempotent producer decides when it is safe to send again"),
    ("retries", "the idempotent producer decides when it is safe to send again"),
    ("enable.gapless.guarantee", "what cannot be written is dealt with by its class"),
    ("partitioner", "the partition of a record is chosen before it is sent"),
    ("group.id", "the group is that of the subscription"),
    ("group.instance.id", "each consumer is a member of its own"),
    ("enable.auto.commit", "offsets are committed together with what was done"),
    ("auto.commit.enable", "offsets are committed together with what was done"),
    ("auto.commit.interval.ms", "offsets are committed together with what was done"),
    ("enable.auto.offset.store", "offsets are committed together with what was done"),
    ("auto.offset.reset", "to begin elsewhere in silence would lose records, or double them"),
    ("isolation.level", "only what is committed is read"),
    ("check.crcs", "damaged records are always looked for"),
    ("enable.partition.eof", "it is set where it is needed"),
    ("allow.auto.create.topics", "topics are made on request only, with given settings"),
];

/// Whether the value of a property must not be shown, whatever the property is. Rather one too many than one too few.
pub(in crate::kafka) fn is_secret(property: &str) -> bool {
    const PARTS: [&str; 8] = ["password", "secret", "token", "credential", "jaas", "pem", "oauthbearer", "private"];
    let property = property.to_ascii_lowercase();
    PARTS.iter().any(|part| property.contains(part))
}

/// A value of a property, which may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Value {
    Shown(String),
    Hidden(Secret),
}

impl Value {
    pub(super) fn new(property: &str, text: impl Into<String>) -> Self {
        match is_secret(property) {
            true => Self::Hidden(Secret::new(text.into())),
            false => Self::Shown(text.into()),
        }
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::Shown(text) => text,
            Self::Hidden(secret) => secret.reveal(),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shown(text) => text.fmt(f),
            Self::Hidden(secret) => secret.fmt(f),
        }
    }
}

/// The text as it is kept, if it is one that is allowed. `name` is what whoever wrote it calls the setting.
pub(super) fn checked(setting: &Setting, name: &str, text: &str) -> Result<String> {
    let kept = match setting.kind {
        Kind::Text => (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned()),
        Kind::Secret | Kind::File => (!text.contains('\0')).then(|| text.to_owned()),
        Kind::Servers => {
            for server in text.split(',') {
                if let Err(wrong) = server_checked(server.trim()) {
                    return Err(Error::invalid(format!(
                        "`{name}` names the server {}; {wrong}",
                        quoted(server.trim())
                    )));
                }
            }
            Some(text.split(',').map(str::trim).collect::<Vec<_>>().join(","))
        }
        Kind::Flag => text.to_ascii_lowercase().parse::<bool>().ok().map(|flag| flag.to_string()),
        Kind::Word(words) => {
            words.iter().find(|word| word.eq_ignore_ascii_case(text)).map(|&word| match (setting.property, word) {
                (ACKS, "-1") => "all".to_owned(),
                _ => word.to_owned(),
            })
        }
        Kind::Millis { min, max } | Kind::Bytes { min, max } => {
            text.parse::<u64>().ok().filter(|number| (min..=max).contains(number)).map(|number| number.to_string())
        }
    };
    kept.ok_or_else(|| refused(setting, name, &shown(setting, text)))
}

fn shown(setting: &Setting, text: &str) -> String {
    match is_secret(setting.property) {
        true => "what must not be shown".to_owned(),
        false => quoted(text),
    }
}

/// `name` is `value`, which is not allowed.
pub(super) fn refused(setting: &Setting, name: &str, value: &str) -> Error {
    let allowed = match setting.kind {
        Kind::Text => "text that is not empty is allowed".to_owned(),
        Kind::Secret => "text without NUL is allowed".to_owned(),
        Kind::Servers => "host:port is allowed, several of them separated by commas".to_owned(),
        Kind::File => "the path of a file is allowed".to_owned(),
        Kind::Flag => "true and false are allowed".to_owned(),
        Kind::Word(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
            match words.split_last() {
                Some((last, before)) => format!("{} and {last} are allowed", before.join(", ")),
                None => "nothing is allowed".to_owned(),
            }
        }
        // A file and a variable say it in different words, and so do the messages.
        Kind::Millis { min, max } if name.starts_with("kafka.") => format!(
            "{} to {} are allowed, such as \"250ms\", \"30s\", \"5m\"",
            shown_time(Duration::from_millis(min)),
            shown_time(Duration::from_millis(max))
        ),
        Kind::Millis { min, max } => format!("{min} to {max} milliseconds are allowed"),
        Kind::Bytes { min, max } => format!("{} to {} are allowed", shown_size(min), shown_size(max)),
    };
    Error::invalid(format!("`{name}` is {value}; {allowed}"))
}

/// Why this is no `host:port`.
fn server_checked(server: &str) -> Result<(), String> {
    let allowed = "host:port is allowed, such as \"kafka-1.example.com:9092\" or \"[::1]:9092\"";
    if server.contains("://") {
        return Err(format!("{allowed}; the security protocol is a setting of its own"));
    }
    let Some((host, port)) = server.rsplit_once(':') else { return Err(allowed.to_owned()) };
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => (address.parse::<std::net::Ipv6Addr>().is_ok()).then_some(address),
        None => Some(host).filter(|host| !host.contains([':', '[', ']'])),
    };
    let is_host = host.is_some_and(|host| !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/'));
    let is_port = !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port > 0);
    if is_host && is_port { Ok(()) } else { Err(allowed.to_owned()) }
}

/// A value of a file as the text of a property, if it can be one.
pub(super) fn from_file(setting: &Setting, value: &toml::Value) -> Option<String> {
    use toml::Value as Toml;
    match (setting.kind, value) {
        (Kind::Millis { .. }, Toml::String(text)) => {
            let time = parse_time(text)?;
            // No part of a millisecond is lost in silence.
            (time.subsec_nanos() % 1_000_000 == 0).then(|| time.as_millis().to_string())
        }
        (Kind::Millis { .. }, _) => None,
        (Kind::Bytes { .. }, Toml::String(text)) => parse_size(text).map(|bytes| bytes.to_string()),
        (Kind::Bytes { .. }, Toml::Integer(bytes)) => Some(bytes.to_string()),
        (Kind::Flag, Toml::Boolean(flag)) => Some(flag.to_string()),
        (Kind::Flag, _) => None,
        (Kind::Word(_), Toml::Integer(number)) if setting.property == ACKS => Some(number.to_string()),
        (Kind::Servers, Toml::Array(servers)) => {
            let servers: Option<Vec<&str>> = servers.iter().map(toml::Value::as_str).collect();
            servers.map(|servers| servers.join(","))
        }
        (_, Toml::String(text)) => Some(text.clone()),
        _ => None,
    }
}
