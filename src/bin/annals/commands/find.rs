//! `find`.

use annals::{BlockingFind, Raw};
use bytes::Bytes;

use crate::args::Cli;
use crate::failure::Outcome;
use crate::open::{open_for_reading, topic};
use crate::output::Output;
use crate::render::{RecordFormat, record};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks in the topics that index the header (create and alter have --index), and shows records in causal order. Any header of the
name counts, if there are several. The log is opened beside its writer, which has the index: so this reads the topics from
beginning to end.

Examples:
  annals -d data find correlation_id 0198c0de
  annals -d data find event_type order.paid --topic orders --max 10 --format json")]
pub(crate) struct FindArgs {
    /// The name of the header
    header: String,
    /// Its value
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Look in this topic only
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Show no more records than this
    #[arg(long, value_name = "N")]
    max: Option<usize>,
    /// How to show records
    #[arg(long, value_enum, default_value_t)]
    format: RecordFormat,
}

pub(crate) fn run(cli: &Cli, args: &FindArgs) -> Outcome {
    let log = open_for_reading(cli)?;
    let found: BlockingFind<Bytes, Raw> = match &args.topic {
        Some(name) => topic(&log, name)?.find(&args.header, &args.value).blocking()?,
        None => log.find(&args.header, &args.value).blocking()?,
    };
    let mut out = Output::new(cli.color);
    for message in found.take(args.max.unwrap_or(usize::MAX)) {
        match message {
            Ok(message) => record(&mut out, args.format, &message)?,
            Err(error) => {
                // What was found before it is shown before it.
                out.flush()?;
                return Err(error.into());
            }
        }
    }
    out.flush()?;
    Ok(log.blocking_close()?)
}
