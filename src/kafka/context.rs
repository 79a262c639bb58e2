//! What the client library calls back: for tokens, with its log, with errors.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken as NativeToken;
use rdkafka::config::RDKafkaLogLevel as Level;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::statistics::Statistics;

use super::config::{KafkaConfig, Secret};
use super::error::{Class, class, kind};
use crate::error::{Error, ErrorKind};

/// What a function for tokens fails with.
pub type TokenError = Box<dyn std::error::Error + Send + Sync>;

pub(super) type TokenProvider = Arc<dyn Fn() -> Result<OAuthToken, TokenError> + Send + Sync>;

/// A token for OAUTHBEARER. It is never shown.
#[derive(Debug, Clone)]
pub struct OAuthToken {
    token: Secret,
    principal: String,
    ends: DateTime<Utc>,
}

impl OAuthToken {
    /// A token, whose it is, and when it ends.
    pub fn new(token: impl Into<String>, principal: impl Into<String>, ends: DateTime<Utc>) -> Self {
        Self { token: Secret::new(token.into()), principal: principal.into(), ends }
    }
}

/// The context of every client: gives tokens, forwards the library's log to `tracing`, and keeps what went wrong in the background, which
/// no call is told.
pub(crate) struct KafkaContext {
    token: Option<TokenProvider>,
    trouble: Mutex<Option<(Class, Error)>>,
    /// The newest, as the library wrote it; nobody may ever ask.
    statistics: Mutex<Vec<u8>>,
}

impl fmt::Debug for KafkaContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaContext").field("trouble", &self.trouble).finish_non_exhaustive()
    }
}

impl KafkaContext {
    pub(crate) fn new(config: &KafkaConfig) -> Self {
        Self { token: config.token().cloned(), trouble: Mutex::new(None), statistics: Mutex::default() }
    }

    /// The last trouble in the background since it was last asked for, a broker that cannot be reached or that refuses this client, and
    /// whether it passes. The client goes on trying in either case.
    pub(crate) fn take_trouble(&self, context: impl Into<String>) -> Option<(Class, Error)> {
        let (class, error) = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some((class, Error::with_source(error.kind(), context, error)))
    }
}

impl KafkaContext {
    /// What the library has counted since it was last asked, if it was told to count.
    pub(crate) fn take_statistics(&self) -> Option<Statistics> {
        let text = std::mem::take(&mut *self.statistics.lock().unwrap_or_else(PoisonError::into_inner));
        serde_json::from_slice(&text).ok()
    }
}

impl ClientContext for KafkaContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: Level, facility: &str, line: &str) {
        match level {
            Level::Emerg | Level::Alert | Level::Critical | Level::Error => {
                tracing::error!(target: "annals::kafka", facility, "{line}");
            }
            Level::Warning => tracing::warn!(target: "annals::kafka", facility, "{line}"),
            Level::Notice | Level::Info => tracing::info!(target: "annals::kafka", facility, "{line}"),
            Level::Debug => tracing::debug!(target: "annals::kafka", facility, "{line}"),
        }
    }

    fn stats_raw(&self, text: &[u8]) {
        let mut newest = self.statistics.lock().unwrap_or_else(PoisonError::into_inner);
        newest.clear();
        newest.extend_from_slice(text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = super::error::code(&error).unwrap_or(Code::Fail);
        // That a partition has come to its end is no trouble.
        if code == Code::PartitionEOF {
            return;
        }
        tracing::warn!(target: "annals::kafka", %code, "{reason}");
        let (class, error) = reported(code, reason);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        // What does not pass is not hidden by what does: after a refusal the brokers are also said to be down.
        if class == Class::Fatal || trouble.as_ref().is_none_or(|(known, _)| *known != Class::Fatal) {
            *trouble = Some((class, error));
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<NativeToken, Box<dyn std::error::Error>> {
        let provider = self.token.as_ref().ok_or("there is no function for tokens")?;
        // The library cannot take text with a NUL in it.
        let given = provider().map_err(|error| error.to_string().replace('\0', "\u{fffd}"))?;
        Ok(NativeToken {
            token: given.token.reveal().to_owned(),
            principal_name: given.principal,
            lifetime_ms: given.ends.timestamp_millis(),
        })
    }
}

impl ConsumerContext for KafkaContext {}

/// What an error in the background means. The library says of a connection that ends in the middle of a handshake that the handshake has
/// failed; a broker that is killed has not refused anybody.
fn reported(code: Code, reason: &str) -> (Class, Error) {
    const LOST: [&str; 6] =
        ["Disconnected", "transport failure", "Connection reset", "Broken pipe", "Receive failed", "timed out"];
    let is_handshake = matches!(code, Code::SSL | Code::Authentication);
    if is_handshake && LOST.iter().any(|lost| reason.contains(lost)) {
        return (Class::Passing, Error::new(ErrorKind::Unavailable, reason));
    }
    (class(code), Error::new(kind(code), reason))
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientContext;
    use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

    use super::{KafkaContext, reported};
    use crate::error::ErrorKind;
    use crate::kafka::{Class, KafkaConfig};

    #[test]
    fn a_lost_connection_is_no_refusal() {
        for (code, reason, class, kind) in [
            (Code::SSL, "SSL handshake failed: certificate verify failed", Class::Fatal, ErrorKind::Denied),
            (Code::SSL, "SSL handshake failed: Disconnected: connecting", Class::Passing, ErrorKind::Unavailable),
            (Code::Authentication, "SASL authentication failed: invalid credentials", Class::Fatal, ErrorKind::Denied),
            (
                Code::Authentication,
                "SASL authentication failed: Local: Broker transport failure",
                Class::Passing,
                ErrorKind::Unavailable,
            ),
            (Code::AllBrokersDown, "1/1 brokers are down", Class::Passing, ErrorKind::Unavailable),
        ] {
            let (found, error) = reported(code, reason);
            assert_eq!((found, error.kind()), (class, kind), "{reason}");
        }
    }

    #[test]
    fn a_refusal_is_not_hidden_by_what_follows_it() {
        let context = KafkaContext::new(&KafkaConfig::new("localhost:1"));
        assert!(context.take_trouble("x").is_none());
        for (code, reason) in
            [(Code::AllBrokersDown, "down"), (Code::Authentication, "refused"), (Code::AllBrokersDown, "down")]
        {
            context.error(KafkaError::Global(code), reason);
        }
        let (class, error) = context.take_trouble("cannot ask").unwrap();
        assert_eq!((class, error.kind()), (Class::Fatal, ErrorKind::Denied));
        assert_eq!(error.to_string(), "cannot ask: refused");
        assert!(context.take_trouble("x").is_none());
        context.error(KafkaError::Global(Code::PartitionEOF), "the end");
        assert!(context.take_trouble("x").is_none());
    }
}
