//! What a bus is told about itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::event::{CAUSATION_DEPTH, ENVIRONMENT};
use crate::log::names::validate_user_topic_name;
use crate::log::settings::TopicSettings;
use crate::text::quoted;

/// Settings of a [`Bus`](crate::Bus).
///
/// ```
/// use annals::{BusSettings, TopicSettings};
///
/// let settings = BusSettings::default()
///     .source("billing")
///     .environment("staging")
///     .topic_defaults(TopicSettings::default().partitions(4));
/// assert_eq!(settings.source, "billing");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BusSettings {
    /// The name of the service, for the header `source`. Unless set, the name of the program.
    pub source: String,
    /// `dev`, `staging`, `prod`: goes before the names of all topics and groups, `staging.orders`, so that several environments can
    /// share a log, and into the header `environment`. Unless set, there is none.
    pub environment: Option<String>,
    /// Whether topics are made when somebody first publishes to them or subscribes to them. By default they are.
    pub create_topics: bool,
    /// The settings of topics that are made so.
    pub topic_defaults: TopicSettings,
    /// The settings of single topics that are made so, by the names that they have without the environment. A topic that is there
    /// already keeps its own.
    pub topics: BTreeMap<String, TopicSettings>,
    /// How long a chain of events may get in which each was published by the handler of the one before. An event beyond it is
    /// refused: most likely two handlers answer each other. By default 100.
    pub causation_depth_max: u32,
    /// Whether events get a header `traceparent`. By default they do.
    pub trace_context: bool,
}

impl Default for BusSettings {
    fn default() -> Self {
        let program = std::env::args_os().next().map(PathBuf::from);
        let name = program.as_deref().and_then(|path| path.file_stem()?.to_str()).unwrap_or("annals");
        Self {
            source: name.to_owned(),
            environment: None,
            create_topics: true,
            topic_defaults: TopicSettings::default(),
            topics: BTreeMap::new(),
            causation_depth_max: 100,
            trace_context: true,
        }
    }
}

impl BusSettings {
    /// Sets the name of the service.
    #[must_use]
    pub fn source(self, source: impl Into<String>) -> Self {
        Self { source: source.into(), ..self }
    }

    /// Sets the environment.
    #[must_use]
    pub fn environment(self, environment: impl Into<String>) -> Self {
        Self { environment: Some(environment.into()), ..self }
    }

    /// Sets whether topics are made when they are first used.
    #[must_use]
    pub fn create_topics(self, create: bool) -> Self {
        Self { create_topics: create, ..self }
    }

    /// Sets the settings of topics that are made when they are first used.
    #[must_use]
    pub fn topic_defaults(self, settings: TopicSettings) -> Self {
        Self { topic_defaults: settings, ..self }
    }

    /// Sets the settings of one topic that is made when it is first used.
    #[must_use]
    pub fn topic(mut self, name: impl Into<String>, settings: TopicSettings) -> Self {
        self.topics.insert(name.into(), settings);
        self
    }

    /// Sets how long a chain of causes may get.
    #[must_use]
    pub fn causation_depth_max(self, depth: u32) -> Self {
        Self { causation_depth_max: depth, ..self }
    }

    /// Sets whether events get a header `traceparent`.
    #[must_use]
    pub fn trace_context(self, enabled: bool) -> Self {
        Self { trace_context: enabled, ..self }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.source.is_empty() || self.source.len() > 255 || self.source.contains(char::is_control) {
            return Err(Error::invalid(format!(
                "`source` is {}; 1 to 255 bytes without control characters are allowed",
                quoted(&self.source)
            )));
        }
        if let Some(name) = &self.environment {
            let allowed = validate_user_topic_name(name).is_ok() && name.len() <= ENVIRONMENT_BYTES_MAX;
            if !allowed {
                return Err(Error::invalid(format!(
                    "`{ENVIRONMENT}` is {}; 1 to {ENVIRONMENT_BYTES_MAX} ASCII letters, digits, '.', '_' and '-' are allowed, with no \
                     dot at either end and no \"__\" at the beginning",
                    quoted(name)
                )));
            }
        }
        if self.causation_depth_max == 0 {
            return Err(Error::invalid(format!("`{CAUSATION_DEPTH}_max` is 0; 1 or more are allowed")));
        }
        self.topic_defaults.validate()?;
        self.topics.values().try_for_each(TopicSettings::validate)
    }
}

const ENVIRONMENT_BYTES_MAX: usize = 64;
