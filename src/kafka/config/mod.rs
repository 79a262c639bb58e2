//! How to reach a Kafka cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

mod read;
mod secret;
mod settings;
#[cfg(test)]
mod tests;
mod validate;
mod words;

pub(in crate::kafka) use secret::Secret;
pub(in crate::kafka) use settings::is_secret;
use settings::{
    ACKS, ALIASES, BATCH_SIZE, BOOTSTRAP_SERVERS, CLIENT_ID, COMPRESSION, DELIVERY_TIMEOUT, IDEMPOTENCE, LINGER,
    REQUEST_TIMEOUT, SASL_MECHANISM, SASL_PASSWORD, SASL_USERNAME, SECURITY_PROTOCOL, SSL_CA, SSL_CERTIFICATE,
    SSL_ENDPOINT, SSL_KEY, SSL_KEY_PASSWORD, Scope, Setting, TRANSACTION_TIMEOUT, Value,
};
pub use words::{Acks, KafkaCompression, SaslMechanism, SecurityProtocol};

use super::context::{OAuthToken, TokenError, TokenProvider};

/// How to reach a Kafka cluster, and what its clients are told: by a builder, from a TOML file ([`from_toml`](Self::from_toml)), and from
/// the usual `KAFKA_*` variables ([`with_env`](Self::with_env)), which win over the file.
///
/// Setting a value never fails; [`validate`](Self::validate) says what is wrong, and everything that is made of a configuration
/// asks it before connecting. Passwords and tokens are in no `Debug` output, no error and no line of a log.
///
/// ```
/// use annals::mirror::{KafkaCompression, KafkaConfig, SaslMechanism, SecurityProtocol};
/// use std::time::Duration;
///
/// let config = KafkaConfig::new("kafka-1:9092,kafka-2:9092")
///     .client_id("billing")
///     .compression(KafkaCompression::Zstd)
///     .linger(Duration::from_millis(5))
///     .security_protocol(SecurityProtocol::SaslSsl)
///     .sasl_mechanism(SaslMechanism::ScramSha512)
///     .sasl_username("billing")
///     .sasl_password("correct horse");
/// config.validate()?;
/// assert!(!format!("{config:?}").contains("correct horse"));
/// # Ok::<_, annals::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct KafkaConfig {
    /// By the client library's names.
    properties: BTreeMap<String, Value>,
    token: Option<TokenProvider>,
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("KafkaConfig");
        shown.field("properties", &self.properties);
        if self.token.is_some() {
            shown.field("oauth_token", &"***");
        }
        shown.finish()
    }
}

impl PartialEq for KafkaConfig {
    /// Two functions for tokens are the same if they are one.
    fn eq(&self, other: &Self) -> bool {
        let same_token = match (&self.token, &other.token) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_token && self.properties == other.properties
    }
}

impl Eq for KafkaConfig {}

impl KafkaConfig {
    /// A cluster, by some of its brokers: `host:port`, separated by commas.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self::default().bootstrap_servers(bootstrap_servers)
    }

    /// Some of the brokers, from which the others are learnt: `host:port`, separated by commas. An IPv6 address stands in brackets.
    #[must_use]
    pub fn bootstrap_servers(self, servers: impl Into<String>) -> Self {
        self.with(BOOTSTRAP_SERVERS, servers)
    }

    /// What the brokers call this program in their logs and quotas. Default: `annals`.
    #[must_use]
    pub fn client_id(self, id: impl Into<String>) -> Self {
        self.with(CLIENT_ID, id)
    }

    /// How many replicas have a record before it counts as written. [`All`](Acks::All) is the default and the only one that
    /// [`validate`](Self::validate) lets through.
    #[must_use]
    pub fn acks(self, acks: Acks) -> Self {
        self.with(ACKS, acks.as_str())
    }

    /// Whether brokers find out what was sent twice. It is the default, and [`validate`](Self::validate) insists on it.
    #[must_use]
    pub fn idempotence(self, enabled: bool) -> Self {
        self.with(IDEMPOTENCE, enabled.to_string())
    }

    /// How batches of records are compressed on their way and in the brokers. Default: not at all.
    #[must_use]
    pub fn compression(self, compression: KafkaCompression) -> Self {
        self.with(COMPRESSION, compression.as_str())
    }

    /// How long a batch waits for more records, in whole milliseconds up to 15 minutes. Default: 5 ms.
    #[must_use]
    pub fn linger(self, linger: Duration) -> Self {
        self.with(LINGER, linger.as_millis().to_string())
    }

    /// How many bytes of records are sent together at most. Default: 1,000,000.
    #[must_use]
    pub fn batch_size(self, bytes: usize) -> Self {
        self.with(BATCH_SIZE, bytes.to_string())
    }

    /// How long a broker may take to answer, in whole milliseconds up to 15 minutes; also the bound of what is asked about topics.
    /// Default: 30 s.
    #[must_use]
    pub fn request_timeout(self, timeout: Duration) -> Self {
        self.with(REQUEST_TIMEOUT, timeout.as_millis().to_string())
    }

    /// How long a record may take to be acknowledged, all attempts together, in whole milliseconds; at most the transaction timeout.
    /// Default: that of the client library, 5 minutes or the transaction timeout.
    #[must_use]
    pub fn delivery_timeout(self, timeout: Duration) -> Self {
        self.with(DELIVERY_TIMEOUT, timeout.as_millis().to_string())
    }

    /// How long a transaction may be open before the brokers abort it, in whole milliseconds; they have a maximum of their own
    /// (`transaction.max.timeout.ms`). Default: 60 s.
    #[must_use]
    pub fn transaction_timeout(self, timeout: Duration) -> Self {
        self.with(TRANSACTION_TIMEOUT, timeout.as_millis().to_string())
    }

    /// Whether connections are encrypted, and whether this program says who it is. Default: neither.
    #[must_use]
    pub fn security_protocol(self, protocol: SecurityProtocol) -> Self {
        self.with(SECURITY_PROTOCOL, protocol.as_str())
    }

    /// How this program says who it is, with a protocol that has SASL.
    #[must_use]
    pub fn sasl_mechanism(self, mechanism: SaslMechanism) -> Self {
        self.with(SASL_MECHANISM, mechanism.as_str())
    }

    /// Who it is, for PLAIN and SCRAM.
    #[must_use]
    pub fn sasl_username(self, name: impl Into<String>) -> Self {
        self.with(SASL_USERNAME, name)
    }

    /// The password, for PLAIN and SCRAM. It is never shown.
    #[must_use]
    pub fn sasl_password(self, password: impl Into<String>) -> Self {
        self.with(SASL_PASSWORD, password)
    }

    /// Where tokens come from, for OAUTHBEARER. The function is called on a thread of a client whenever one is needed, before the last
    /// one ends; until it returns that client does nothing else. If it fails it is called again some seconds later, and the sentence of
    /// its error gets into the log.
    ///
    /// Topics cannot be made with OAUTHBEARER.
    ///
    /// ```
    /// use annals::mirror::{KafkaConfig, OAuthToken, SaslMechanism, SecurityProtocol};
    /// # fn fetch_token() -> Result<String, std::io::Error> { Ok("eyJhbGciOi".into()) }
    ///
    /// let config = KafkaConfig::new("localhost:9092")
    ///     .security_protocol(SecurityProtocol::SaslSsl)
    ///     .sasl_mechanism(SaslMechanism::OAuthBearer)
    ///     .oauth_token(|| {
    ///         let ends = chrono::Utc::now() + chrono::Duration::hours(1);
    ///         Ok(OAuthToken::new(fetch_token()?, "billing", ends))
    ///     });
    /// config.validate()?;
    /// # Ok::<_, annals::Error>(())
    /// ```
    #[must_use]
    pub fn oauth_token(
        mut self,
        provider: impl Fn() -> Result<OAuthToken, TokenError> + Send + Sync + 'static,
    ) -> Self {
        self.token = Some(Arc::new(provider));
        self
    }

    /// A file of the certificates (PEM) that vouch for the brokers. Default: those of the system.
    #[must_use]
    pub fn ca_file(self, path: impl AsRef<Path>) -> Self {
        self.with(SSL_CA, path.as_ref().to_string_lossy())
    }

    /// The certificate (PEM) that says who this program is, and its private key (PEM).
    #[must_use]
    pub fn client_certificate(self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.with(SSL_CERTIFICATE, certificate.as_ref().to_string_lossy()).with(SSL_KEY, key.as_ref().to_string_lossy())
    }

    /// The password of the private key. It is never shown.
    #[must_use]
    pub fn key_password(self, password: impl Into<String>) -> Self {
        self.with(SSL_KEY_PASSWORD, password)
    }

    /// Whether the certificate of a broker must be made out to the name by which it is reached. Default: yes.
    #[must_use]
    pub fn verify_host_name(self, verify: bool) -> Self {
        self.with(SSL_ENDPOINT, if verify { "https" } else { "none" })
    }

    /// Sets a property of the client library, librdkafka, by its name. Those that would take away what this crate promises, such as
    /// `transactional.id` or `enable.auto.commit`, are refused by [`validate`](Self::validate).
    #[must_use]
    pub fn property(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
        self.with(alias.map_or(name.as_str(), |(_, property)| property), value)
    }

    fn with(mut self, property: &str, text: impl Into<String>) -> Self {
        self.set(property, text.into());
        self
    }

    fn set(&mut self, property: &str, text: String) {
        self.properties.insert(property.to_owned(), Value::new(property, text));
    }

    fn text(&self, property: &str) -> Option<&str> {
        self.properties.get(property).map(Value::text)
    }

    /// The bound of what is asked of a broker outside of sending and receiving.
    pub(crate) fn wait(&self) -> Duration {
        let millis = self.kept(REQUEST_TIMEOUT).and_then(|text| text.parse().ok());
        Duration::from_millis(millis.unwrap_or(30_000))
    }

    /// How long a transaction may be open, if that was set.
    pub(crate) fn transaction_max(&self) -> Option<Duration> {
        self.kept(TRANSACTION_TIMEOUT).and_then(|text| text.parse().ok()).map(Duration::from_millis)
    }

    /// Whether clients are let in by tokens, which those that change the cluster do not have.
    pub(crate) fn has_tokens(&self) -> bool {
        self.token.is_some()
    }

    pub(in crate::kafka) fn token(&self) -> Option<&TokenProvider> {
        self.token.as_ref()
    }

    /// What every client of this cluster is told. With [`context`](super::KafkaContext::new), or OAUTHBEARER has no tokens.
    pub(crate) fn client(&self) -> ClientConfig {
        self.told(|scope| scope == Scope::Client)
    }

    /// What producers are told: acknowledged by all, idempotent.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = self.told(|_| true);
        config.set(ACKS, "all").set(IDEMPOTENCE, "true");
        config
    }

    /// What consumers are told: what is committed, from the offsets that they are given, and no offsets kept behind their back.
    pub(crate) fn consumer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false")
            .set("check.crcs", "true");
        config
    }

    fn told(&self, scope: impl Fn(Scope) -> bool) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set(CLIENT_ID, "annals");
        for (name, value) in &self.properties {
            match Setting::by_property(name) {
                Some(setting) if !scope(setting.scope) => {}
                Some(_) => drop(config.set(name, self.kept(name).unwrap_or_else(|| value.text().to_owned()))),
                None => drop(config.set(name, value.text())),
            }
        }
        config.set_log_level(match self.properties.contains_key("debug") {
            true => RDKafkaLogLevel::Debug,
            false => RDKafkaLogLevel::Warning,
        });
        config
    }
}
