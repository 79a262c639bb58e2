//! The settings from a file, and from the environment.

use toml::{Table, Value as Toml};

use super::KafkaConfig;
use super::settings::{ALIASES, Kind, SETTINGS, Setting, checked, from_file, is_secret, refused, variable};
use crate::error::{Error, Result};
use crate::text::{nearest, quoted};

/// The section of a file, and the table of further properties in it.
const SECTION: &str = "kafka";
const PROPERTIES: &str = "properties";

impl KafkaConfig {
    /// What the section `[kafka]` of a configuration says; other sections are let be, and a text without the section says nothing.
    /// `docs/CONFIGURATION.md` lists the keys.
    ///
    /// ```
    /// use annals::mirror::KafkaConfig;
    ///
    /// let config = KafkaConfig::from_toml(
    ///     r#"
    ///     [kafka]
    ///     bootstrap_servers = "kafka-1:9092,kafka-2:9092"
    ///     compression_type = "zstd"
    ///     linger = "5ms"
    ///     properties = { "socket.keepalive.enable" = true }
    ///     "#,
    /// )?;
    /// config.validate()?;
    /// # Ok::<_, annals::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a text that is no TOML, for keys that are unknown, and for values outside of what is
    /// allowed. What does not go together is found out by [`validate`](Self::validate).
    pub fn from_toml(text: &str) -> Result<Self> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            // Where, and not what: the line may be that of a password.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            Error::invalid(format!("the configuration is no TOML, in line {}", before.matches('\n').count() + 1))
        })?;
        match table.get(SECTION) {
            Some(Toml::Table(section)) => Self::from_section(section),
            Some(_) => Err(Error::invalid(format!("`{SECTION}` is no table; a table is allowed"))),
            None => Ok(Self::default()),
        }
    }

    fn from_section(section: &Table) -> Result<Self> {
        let mut config = Self::default();
        for (key, value) in section {
            if key == PROPERTIES {
                for (property, value) in as_table(value)? {
                    let text = match value {
                        Toml::String(text) => text.clone(),
                        Toml::Integer(number) => number.to_string(),
                        Toml::Float(number) => number.to_string(),
                        Toml::Boolean(flag) => flag.to_string(),
                        _ => {
                            return Err(Error::invalid(format!(
                                "`{SECTION}.{PROPERTIES}` has no text, number or flag for {}; these are allowed",
                                quoted(property)
                            )));
                        }
                    };
                    config = config.property(property, text);
                }
                continue;
            }
            let name = format!("{SECTION}.{key}");
            let Some(setting) = Setting::by_key(key) else { return Err(unknown(&name, key)) };
            let text = from_file(setting, value).ok_or_else(|| refused(setting, &name, &shown(setting, value)))?;
            // A millisecond too many is refused in the words of the file.
            let text = checked(setting, &name, &text).map_err(|error| match setting.kind {
                Kind::Millis { .. } | Kind::Bytes { .. } => refused(setting, &name, &shown(setting, value)),
                _ => error,
            })?;
            config.set(setting.property, text);
        }
        Ok(config)
    }

    /// What the usual variables of this process say; see [`with_env`](Self::with_env).
    ///
    /// # Errors
    ///
    /// As [`with_env`](Self::with_env).
    pub fn from_env() -> Result<Self> {
        Self::default().with_env()
    }

    /// With the usual `KAFKA_*` variables of this process, which win over what was said before: `KAFKA_` and the name of the property in
    /// capitals, with `_` for each `.`.
    ///
    /// | variable | what it is |
    /// |---|---|
    /// | `KAFKA_BOOTSTRAP_SERVERS` | [`bootstrap_servers`](Self::bootstrap_servers) |
    /// | `KAFKA_CLIENT_ID` | [`client_id`](Self::client_id) |
    /// | `KAFKA_ACKS`, `KAFKA_ENABLE_IDEMPOTENCE` | [`acks`](Self::acks), [`idempotence`](Self::idempotence) |
    /// | `KAFKA_COMPRESSION_TYPE` | [`compression`](Self::compression) |
    /// | `KAFKA_LINGER_MS`, `KAFKA_BATCH_SIZE` | [`linger`](Self::linger), [`batch_size`](Self::batch_size) |
    /// | `KAFKA_REQUEST_TIMEOUT_MS`, `KAFKA_DELIVERY_TIMEOUT_MS`, `KAFKA_TRANSACTION_TIMEOUT_MS` | the three timeouts |
    /// | `KAFKA_SECURITY_PROTOCOL` | [`security_protocol`](Self::security_protocol) |
    /// | `KAFKA_SASL_MECHANISM`, `KAFKA_SASL_USERNAME`, `KAFKA_SASL_PASSWORD` | [`sasl_mechanism`](Self::sasl_mechanism) and who it is |
    /// | `KAFKA_SSL_CA_LOCATION` | [`ca_file`](Self::ca_file) |
    /// | `KAFKA_SSL_CERTIFICATE_LOCATION`, `KAFKA_SSL_KEY_LOCATION`, `KAFKA_SSL_KEY_PASSWORD` | [`client_certificate`](Self::client_certificate), [`key_password`](Self::key_password) |
    /// | `KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM` | [`verify_host_name`](Self::verify_host_name): `https` or `none` |
    ///
    /// Other variables that begin so, such as `KAFKA_HOME` and `KAFKA_HEAP_OPTS`, are a broker's, and are let be.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a value outside of what is allowed, or that is no text.
    pub fn with_env(self) -> Result<Self> {
        let mut ours = Vec::new();
        for setting in known_variables() {
            match std::env::var(&setting) {
                Ok(value) => ours.push((setting, value)),
                Err(std::env::VarError::NotPresent) => {}
                Err(std::env::VarError::NotUnicode(_)) => {
                    return Err(Error::invalid(format!("the variable {setting} is no text in UTF-8")));
                }
            }
        }
        self.with_vars(ours)
    }

    /// [`with_env`](Self::with_env), with variables that are given: for tests, and for whoever has them from elsewhere.
    ///
    /// ```
    /// use annals::mirror::KafkaConfig;
    ///
    /// let config = KafkaConfig::new("localhost:9092").with_vars([("KAFKA_LINGER_MS", "20"), ("KAFKA_HOME", "/opt/kafka")])?;
    /// let wrong = config.with_vars([("KAFKA_COMPRESSION_TYPE", "rar")]).unwrap_err();
    /// assert!(wrong.to_string().starts_with("`KAFKA_COMPRESSION_TYPE` is \"rar\""));
    /// # Ok::<_, annals::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`with_env`](Self::with_env).
    pub fn with_vars<N: AsRef<str>, V: AsRef<str>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self> {
        for (name, text) in variables {
            let name = name.as_ref();
            let alias = ALIASES.iter().find(|(alias, _)| variable(alias) == name).map(|(_, property)| *property);
            let setting = alias
                .and_then(Setting::by_property)
                .or_else(|| SETTINGS.iter().find(|setting| setting.variable() == name));
            if let Some(setting) = setting {
                let text = checked(setting, name, text.as_ref())?;
                self.set(setting.property, text);
            }
        }
        Ok(self)
    }
}

fn known_variables() -> impl Iterator<Item = String> {
    let aliases = ALIASES.iter().map(|(alias, _)| variable(alias));
    aliases.chain(SETTINGS.iter().map(Setting::variable))
}

fn as_table(value: &Toml) -> Result<&Table> {
    value.as_table().ok_or_else(|| Error::invalid(format!("`{SECTION}.{PROPERTIES}` is no table; a table is allowed")))
}

fn shown(setting: &Setting, value: &Toml) -> String {
    match value {
        _ if is_secret(setting.property) => "what must not be shown".to_owned(),
        Toml::String(text) => quoted(text),
        Toml::Integer(number) => number.to_string(),
        Toml::Float(number) => number.to_string(),
        Toml::Boolean(flag) => flag.to_string(),
        Toml::Array(_) => "a list".to_owned(),
        Toml::Table(_) => "a table".to_owned(),
        Toml::Datetime(_) => "a time".to_owned(),
    }
}

fn unknown(name: &str, key: &str) -> Error {
    let known = || SETTINGS.iter().map(|setting| setting.key).chain([PROPERTIES]);
    Error::invalid(match nearest(key, known()) {
        Some(near) => format!("`{name}` is unknown; did you mean `{near}`?"),
        None => {
            let known: Vec<String> = known().map(|known| format!("`{known}`")).collect();
            format!(
                "`{name}` is unknown; known are {}; further properties of the client library go into `{SECTION}.{PROPERTIES}`",
                known.join(", ")
            )
        }
    })
}
