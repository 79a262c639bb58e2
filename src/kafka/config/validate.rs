//! What is wrong with a configuration before anybody connects with it.

use std::fs::File;

use super::KafkaConfig;
use super::settings::{
    ACKS, BOOTSTRAP_SERVERS, DELIVERY_TIMEOUT, IDEMPOTENCE, Kind, LINGER, REFUSED, SASL_MECHANISM, SASL_PASSWORD,
    SASL_USERNAME, SECURITY_PROTOCOL, SETTINGS, SSL_CERTIFICATE, SSL_KEY, SSL_KEY_PASSWORD, Setting,
    TRANSACTION_TIMEOUT, checked,
};
use crate::error::{Error, ErrorKind, Result};
use crate::text::quoted;

impl KafkaConfig {
    /// Looks for what is wrong without connecting: values outside of what is allowed, settings that contradict each other, files that
    /// cannot be read, properties that the client library does not know, and those that would take away what this crate promises.
    /// Whatever is made of a configuration does this first.
    ///
    /// ```
    /// use annals::mirror::{Acks, KafkaConfig};
    ///
    /// let refused = KafkaConfig::new("localhost:9092").acks(Acks::Leader).validate().unwrap_err();
    /// assert!(refused.to_string().contains("`acks` is \"1\"; \"all\" is allowed"), "{refused}");
    /// ```
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid), with a sentence that names the setting and says what is allowed. No secret is in it.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in &self.properties {
            if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| refused == name) {
                return Err(Error::invalid(format!("the property `{name}` cannot be set: {why}")));
            }
            if let Some(setting) = Setting::by_property(name) {
                let kept = checked(setting, setting.key, value.text())?;
                if matches!(setting.kind, Kind::File) {
                    readable(setting, &kept)?;
                }
            }
        }
        if self.text(BOOTSTRAP_SERVERS).is_none() {
            return Err(Error::invalid(
                "`bootstrap_servers` is not set (KAFKA_BOOTSTRAP_SERVERS); host:port is allowed, several of them separated by commas",
            ));
        }
        self.check_writing()?;
        self.check_security()?;
        // The client library has the last word: it knows all of its properties, and what it was built without.
        for (what, config) in [("a producer", self.producer()), ("a consumer", self.consumer())] {
            if let Err(error) = config.create_native_config() {
                return Err(crate::kafka::from_kafka(format!("the configuration of {what} is refused"), error));
            }
        }
        Ok(())
    }

    fn check_writing(&self) -> Result<()> {
        if let Some(acks) = self.kept(ACKS).filter(|acks| acks != "all") {
            return Err(Error::invalid(format!(
                "`acks` is {acks:?}; \"all\" is allowed: with less, a change of leader loses records that were acknowledged"
            )));
        }
        if self.kept(IDEMPOTENCE).is_some_and(|flag| flag == "false") {
            return Err(Error::invalid(
                "`enable_idempotence` is false; true is allowed: without it, what is sent again is written twice or out of order",
            ));
        }
        let millis = |property| self.kept(property).and_then(|text| text.parse::<u64>().ok());
        let delivery = millis(DELIVERY_TIMEOUT);
        if let (Some(delivery), Some(linger)) = (delivery, millis(LINGER))
            && delivery <= linger
        {
            return Err(Error::invalid(format!(
                "`delivery_timeout` is {delivery}ms; more than `linger`, {linger}ms, is allowed"
            )));
        }
        if let (Some(delivery), Some(transaction)) = (delivery, millis(TRANSACTION_TIMEOUT))
            && delivery > transaction
        {
            return Err(Error::invalid(format!(
                "`delivery_timeout` is {delivery}ms; at most `transaction_timeout`, {transaction}ms, is allowed"
            )));
        }
        Ok(())
    }

    fn check_security(&self) -> Result<()> {
        let protocol = self.kept(SECURITY_PROTOCOL).unwrap_or_else(|| "PLAINTEXT".to_owned());
        let (is_sasl, is_ssl) = (protocol.starts_with("SASL"), protocol.ends_with("SSL"));
        for setting in SETTINGS.iter().filter(|setting| self.text(setting.property).is_some()) {
            let (needed, is_there) = match setting.key.split('_').next() {
                Some("sasl") => ("SASL_PLAINTEXT or SASL_SSL", is_sasl),
                Some("ssl") => ("SSL or SASL_SSL", is_ssl),
                _ => continue,
            };
            if !is_there {
                return Err(Error::invalid(format!(
                    "`{}` is set, but `security_protocol` is {protocol}; {needed} is allowed with it",
                    setting.key
                )));
            }
        }
        if self.token.is_some() && !is_sasl {
            return Err(Error::invalid(format!(
                "there is a function for OAUTHBEARER tokens, but `security_protocol` is {protocol}; SASL_PLAINTEXT or SASL_SSL is \
                 allowed with it"
            )));
        }
        if is_sasl {
            self.check_sasl()?;
        }
        let has = |property| self.text(property).is_some();
        // Keys and certificates may also be given as text, by the library's own properties.
        let (certificate, key) =
            (has(SSL_CERTIFICATE) || has("ssl.certificate.pem"), has(SSL_KEY) || has("ssl.key.pem"));
        match (certificate, key) {
            (true, false) => Err(Error::invalid(
                "`ssl_certificate_location` is set, but `ssl_key_location` is not; a client certificate goes with its key",
            )),
            (false, true) => Err(Error::invalid(
                "`ssl_key_location` is set, but `ssl_certificate_location` is not; a key goes with its client certificate",
            )),
            (_, false) if has(SSL_KEY_PASSWORD) => Err(Error::invalid(
                "`ssl_key_password` is set, but `ssl_key_location` is not; the password goes with a key",
            )),
            _ => Ok(()),
        }
    }

    fn check_sasl(&self) -> Result<()> {
        let Some(mechanism) = self.kept(SASL_MECHANISM) else {
            return Err(Error::invalid(
                "`sasl_mechanism` is not set; with SASL, \"PLAIN\", \"SCRAM-SHA-256\", \"SCRAM-SHA-512\" or \"OAUTHBEARER\" is allowed",
            ));
        };
        let is_oauth = mechanism == "OAUTHBEARER";
        for (property, key) in [(SASL_USERNAME, "sasl_username"), (SASL_PASSWORD, "sasl_password")] {
            match (self.text(property).is_some(), is_oauth) {
                (true, true) => {
                    return Err(Error::invalid(format!(
                        "`{key}` is set, but `sasl_mechanism` is OAUTHBEARER, which takes a function for tokens instead"
                    )));
                }
                (false, false) => {
                    return Err(Error::invalid(format!("`{key}` is not set; the mechanism {mechanism} needs it")));
                }
                _ => {}
            }
        }
        match (&self.token, is_oauth) {
            (None, true) => Err(Error::invalid(
                "`sasl_mechanism` is OAUTHBEARER, which needs a function for tokens: KafkaConfig::oauth_token in the program",
            )),
            (Some(_), false) => Err(Error::invalid(format!(
                "there is a function for OAUTHBEARER tokens, but `sasl_mechanism` is {mechanism}; OAUTHBEARER is allowed with it"
            ))),
            _ => Ok(()),
        }
    }

    /// The value as it would be told to the client library.
    pub(super) fn kept(&self, property: &str) -> Option<String> {
        let text = self.text(property)?;
        match Setting::by_property(property) {
            Some(setting) => checked(setting, setting.key, text).ok(),
            None => Some(text.to_owned()),
        }
    }
}

fn readable(setting: &Setting, path: &str) -> Result<()> {
    // The library's word for looking where the system keeps its certificates.
    if setting.property == super::settings::SSL_CA && path == "probe" {
        return Ok(());
    }
    match File::open(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::with_source(
            ErrorKind::Invalid,
            format!("`{}` is {}; the path of a file that can be read is allowed", setting.key, quoted(path)),
            error,
        )),
    }
}
