//! `alter`.

use crate::args::Cli;
use crate::commands::create::SettingsArgs;
use crate::commands::waiting::wait_for;
use crate::failure::{Failure, Outcome};
use crate::open::open_for_writing;
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is not given stays as it is. Settings hold for what is written from now on; retention lets go right away, and an index is about
what is there already, too. With more partitions later records of a key may go elsewhere; there cannot be fewer.

Examples:
  annals -d data alter clicks --retention-age 30d --compression lz4
  annals -d data alter clicks --retention-size all --partitions 8
  annals -d data alter clicks --index correlation_id --index event_type")]
pub(crate) struct AlterArgs {
    /// The name of the topic
    topic: String,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(crate) fn run(cli: &Cli, args: &AlterArgs) -> Outcome {
    let log = open_for_writing(cli)?;
    let altered: annals::Result<bool> = wait_for(async {
        let old = log.describe_topic(&args.topic)?.settings;
        let new = args.settings.applied_to(old.clone());
        let partitions = args.settings.partitions().filter(|partitions| *partitions != old.partitions);
        if new == old && partitions.is_none() {
            return Ok(false);
        }
        // Fewer are refused before anything is changed.
        if let Some(fewer) = partitions.filter(|partitions| *partitions < old.partitions) {
            log.add_partitions(&args.topic, fewer).await?;
        }
        log.alter_topic(&args.topic, new).await?;
        if let Some(partitions) = partitions {
            log.add_partitions(&args.topic, partitions).await?;
        }
        Ok(true)
    })?;
    let closed = log.blocking_close();
    let altered = altered?;
    closed?;
    if !altered {
        return Err(Failure::usage(format!("topic {} has these settings already", args.topic)));
    }
    let mut out = Output::new(cli.color);
    out.line(format!("topic {} is altered", args.topic))?;
    out.flush()
}
