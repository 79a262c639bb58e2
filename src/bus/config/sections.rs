//! The configuration as it is used.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use toml::Table;

use super::super::policy::{GiveUp, Policy};
use super::super::retry::Retry;
use super::super::settings::BusSettings;
use super::backend::Backend;
use super::read;
use crate::error::{Error, Result};
use crate::handle::LogBuilder;
use crate::log::names::validate_user_topic_name;
use crate::log::settings::TopicSettings;
use crate::replay::Start;

/// What was read. A key that is not there is `None`: what the program says holds then.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Sections {
    pub(super) log: LogSection,
    pub(super) bus: BusSection,
    pub(super) topics: BTreeMap<String, Table>,
    pub(super) subscriptions: BTreeMap<String, SubscriptionSection>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LogSection {
    commit_bytes_max: Option<u64>,
    journal_bytes: Option<u64>,
    tail_bytes_max: Option<u64>,
    mapped_appends: Option<bool>,
    open_files_max: Option<u32>,
    maintenance_bytes_per_second_max: Option<u64>,
    create: Option<bool>,
    refresh_interval: Option<Time>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BusSection {
    backend: Option<String>,
    source: Option<String>,
    environment: Option<String>,
    create_topics: Option<bool>,
    causation_depth_max: Option<u32>,
    trace_context: Option<bool>,
    topic_defaults: Table,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SubscriptionSection {
    concurrency: Option<usize>,
    deadline: Option<Time>,
    ttl: Option<Time>,
    waiting_max: Option<usize>,
    waiting_bytes_max: Option<usize>,
    shutdown_timeout: Option<Time>,
    pub(super) dead_letter: Option<String>,
    pub(super) sequenced: Option<bool>,
    pub(super) on_failure: Option<String>,
    pub(super) start: Option<Begin>,
    retry: Option<RetrySection>,
    circuit_breaker: Option<BreakerSection>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RetrySection {
    attempts: Option<Attempts>,
    base: Option<Time>,
    factor: Option<f64>,
    ceiling: Option<Time>,
    jitter: Option<(f64, f64)>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BreakerSection {
    failures: Option<u32>,
    open_for: Option<Time>,
}

#[derive(Debug, Clone, Copy)]
struct Time(Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(read::time(&String::deserialize(deserializer)?)))
    }
}

/// Where a group begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin(pub(super) Start);

impl<'de> Deserialize<'de> for Begin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(read::start(&String::deserialize(deserializer)?).unwrap_or(Start::Earliest)))
    }
}

/// A number, or `"forever"`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Attempts {
    Number(u32),
    Forever(Forever),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Forever {
    Forever,
}

impl Sections {
    /// The sections of a table whose values were checked one by one; here they are checked together.
    pub(super) fn read(table: &Table) -> Result<Self> {
        let sections: Self = table
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| Error::invalid(format!("the configuration {}", error.message())))?;
        about("log", sections.log.builder().validate())?;
        about("bus", sections.bus_settings().and_then(|settings| settings.validate()))?;
        for (name, subscription) in &sections.subscriptions {
            let path = format!("subscriptions.{name}");
            about(&path, crate::group::validate_group_name(name))?;
            about(&path, subscription.validate())?;
        }
        Ok(sections)
    }

    pub(super) fn bus_settings(&self) -> Result<BusSettings> {
        let section = &self.bus;
        let mut settings = BusSettings::default();
        if let Some(source) = &section.source {
            settings.source.clone_from(source);
        }
        settings.environment.clone_from(&section.environment);
        settings.create_topics = section.create_topics.unwrap_or(settings.create_topics);
        settings.causation_depth_max = section.causation_depth_max.unwrap_or(settings.causation_depth_max);
        settings.trace_context = section.trace_context.unwrap_or(settings.trace_context);
        settings.topic_defaults = topic_settings("bus.topic_defaults", section.topic_defaults.clone())?;
        for (name, own) in &self.topics {
            let path = format!("topics.{name}");
            about(&path, validate_user_topic_name(name))?;
            let mut all = section.topic_defaults.clone();
            all.extend(own.clone());
            settings.topics.insert(name.clone(), topic_settings(&path, all)?);
        }
        Ok(settings)
    }
}

fn topic_settings(path: &str, table: Table) -> Result<TopicSettings> {
    let settings: TopicSettings =
        table.try_into().map_err(|error: toml::de::Error| Error::invalid(format!("`{path}`: {}", error.message())))?;
    about(path, settings.validate())?;
    Ok(settings)
}

/// Says which section it is that an error is about.
fn about<T>(path: impl fmt::Display, checked: Result<T>) -> Result<T> {
    checked.map_err(|error| Error::invalid(format!("in `{path}`: {error}")))
}

impl BusSection {
    pub(super) fn backend(&self) -> Backend {
        self.backend.as_deref().map_or_else(Backend::default, Backend::from_word)
    }
}

impl LogSection {
    pub(super) fn builder(&self) -> LogBuilder {
        fn given<T>(
            builder: LogBuilder,
            value: Option<T>,
            set: impl FnOnce(LogBuilder, T) -> LogBuilder,
        ) -> LogBuilder {
            match value {
                Some(value) => set(builder, value),
                None => builder,
            }
        }
        let builder = given(LogBuilder::default(), self.commit_bytes_max, LogBuilder::commit_bytes_max);
        let builder = given(builder, self.journal_bytes, LogBuilder::journal_bytes);
        let builder = given(builder, self.tail_bytes_max, LogBuilder::tail_bytes_max);
        let builder = given(builder, self.mapped_appends, LogBuilder::mapped_appends);
        let builder = given(builder, self.open_files_max, LogBuilder::open_files_max);
        let rate = self.maintenance_bytes_per_second_max;
        let builder = given(builder, rate, LogBuilder::maintenance_bytes_per_second_max);
        let builder = given(builder, self.create, LogBuilder::create);
        given(builder, self.refresh_interval, |builder, interval| builder.refresh_interval(interval.0))
    }
}

impl SubscriptionSection {
    /// Sets what the section has.
    pub(super) fn apply(&self, policy: &mut Policy) {
        policy.concurrency = self.concurrency.unwrap_or(policy.concurrency);
        policy.deadline = self.deadline.map(|time| time.0).or(policy.deadline);
        policy.ttl = self.ttl.map(|time| time.0).or(policy.ttl);
        policy.waiting_max = self.waiting_max.unwrap_or(policy.waiting_max);
        policy.waiting_bytes_max = self.waiting_bytes_max.unwrap_or(policy.waiting_bytes_max);
        policy.shutdown_timeout = self.shutdown_timeout.map_or(policy.shutdown_timeout, |time| time.0);
        match self.on_failure.as_deref() {
            Some("skip") => policy.give_up = GiveUp::Skip,
            Some(_) => policy.give_up = GiveUp::Stop,
            None => {}
        }
        if let Some(section) = &self.retry {
            policy.retry = section.applied_to(policy.retry.clone());
        }
        if let Some(section) = &self.circuit_breaker {
            let mut breaker = policy.breaker.unwrap_or_default();
            breaker.failures = section.failures.unwrap_or(breaker.failures);
            breaker.open_for = section.open_for.map_or(breaker.open_for, |time| time.0);
            policy.breaker = Some(breaker);
        }
    }

    fn validate(&self) -> Result<()> {
        let mut policy = Policy::default();
        self.apply(&mut policy);
        policy.validate()?;
        if let Some(topic) = &self.dead_letter {
            validate_user_topic_name(topic)?;
            if let Some(word) = &self.on_failure {
                return Err(Error::invalid(format!(
                    "`on_failure` is \"{word}\", and `dead_letter` is set as well; one of them is allowed"
                )));
            }
        }
        Ok(())
    }
}

impl RetrySection {
    fn applied_to(&self, mut retry: Retry) -> Retry {
        if let Some(attempts) = self.attempts {
            retry = retry.with_attempts(match attempts {
                Attempts::Number(attempts) => attempts,
                Attempts::Forever(Forever::Forever) => u32::MAX,
            });
        }
        if let Some(base) = self.base {
            retry = retry.base(base.0);
        }
        if let Some(factor) = self.factor {
            retry = retry.factor(factor);
        }
        if let Some(ceiling) = self.ceiling {
            retry = retry.ceiling(ceiling.0);
        }
        match self.jitter {
            Some((least, most)) => retry.jitter(least, most),
            None => retry,
        }
    }
}
