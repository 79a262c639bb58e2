//! `create`.

use std::time::Duration;

use annals::{Compression, Durability, Raw, TopicDef, TopicSettings};
use bytes::Bytes;

use crate::args::Cli;
use crate::failure::Outcome;
use crate::open::open_or_create;
use crate::output::Output;
use crate::units::{parse_duration, parse_size, parse_size_u32};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A topic that exists with the same settings is no error.

Example:
  annals -d data create clicks --partitions 4 --durability 'interval 250ms' --retention-age 7d")]
pub(crate) struct CreateArgs {
    /// The name of the topic
    topic: String,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// The settings of a new topic; what is not given has the library's default.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct SettingsArgs {
    /// Into how many partitions it is divided
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// When a record is acknowledged: `sync`, `interval 250ms` or `os`
    #[arg(long, value_name = "LEVEL")]
    durability: Option<Durability>,
    /// How what is written is compressed: `none`, `lz4` or `zstd 3`
    #[arg(long, value_name = "METHOD")]
    compression: Option<Compression>,
    /// The size at which a partition begins a new file
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    segment_size: Option<u64>,
    /// The largest record
    #[arg(long, value_name = "SIZE", value_parser = parse_size_u32)]
    record_size: Option<u32>,
    /// How many bytes each partition keeps, at least; `all` is the default
    #[arg(long, value_name = "SIZE", value_parser = |text: &str| keep(text, parse_size))]
    retention_size: Option<Keep<u64>>,
    /// How long records are kept; `all` is the default
    #[arg(long, value_name = "TIME", value_parser = |text: &str| keep(text, parse_duration))]
    retention_age: Option<Keep<Duration>>,
    /// A header by whose values `find` finds records; may be repeated
    #[arg(long, value_name = "NAME")]
    index: Vec<String>,
    /// Index no header
    #[arg(long, conflicts_with = "index")]
    no_index: bool,
}

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep<T> {
    All,
    UpTo(T),
}

fn keep<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Keep<T>, String> {
    if text == "all" {
        return Ok(Keep::All);
    }
    parse(text).map(Keep::UpTo).map_err(|why| format!("{why}, or `all`"))
}

impl<T> Keep<T> {
    fn limit(self) -> Option<T> {
        match self {
            Self::All => None,
            Self::UpTo(limit) => Some(limit),
        }
    }
}

impl SettingsArgs {
    /// The number of partitions, if it is given.
    pub(crate) fn partitions(&self) -> Option<u32> {
        self.partitions
    }

    /// The settings of a new topic.
    pub(crate) fn settings(&self) -> TopicSettings {
        let settings = TopicSettings::default();
        let partitions = self.partitions.unwrap_or(settings.partitions);
        self.applied_to(settings.partitions(partitions))
    }

    /// Other settings with what is given, but for the number of partitions.
    pub(crate) fn applied_to(&self, mut settings: TopicSettings) -> TopicSettings {
        settings.durability = self.durability.unwrap_or(settings.durability);
        settings.compression = self.compression.unwrap_or(settings.compression);
        settings.segment_bytes_max = self.segment_size.unwrap_or(settings.segment_bytes_max);
        settings.record_bytes_max = self.record_size.unwrap_or(settings.record_bytes_max);
        settings.retention_bytes_max = self.retention_size.map_or(settings.retention_bytes_max, Keep::limit);
        settings.retention_age_max = self.retention_age.map_or(settings.retention_age_max, Keep::limit);
        if self.no_index || !self.index.is_empty() {
            settings.indexed_headers.clone_from(&self.index);
        }
        settings
    }
}

pub(crate) fn run(cli: &Cli, args: &CreateArgs) -> Outcome {
    let log = open_or_create(cli)?;
    let def = TopicDef::<Bytes, Raw>::named(args.topic.clone());
    let created = log.blocking_create_topic(def, args.settings.settings());
    let closed = log.blocking_close();
    created?;
    closed?;
    let mut out = Output::new(cli.color);
    out.line(format!("topic {} is there", args.topic))?;
    out.flush()
}
