//! Where an imported record came from, and so where the next import goes on.
//!
//! Each imported record has the name of its source and its line in two headers. Records are written in atomic batches, one after
//! the other, so the durable log holds a beginning of the source: all lines up to the highest that is there. The highest is
//! among the records of the newest commit that has any of the source.

use annals::{Log, Message, Raw, Record, Start, Topic};
use bytes::Bytes;

use crate::failure::{Failure, Outcome};

const SOURCE: &str = "import_source";
const LINE: &str = "import_line";

/// How many of the last records are looked at first; ten times as many each time that is not enough.
const LOOK_BACK: u64 = 1000;

/// Where a record comes from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) source: String,
}

/// The last line that the log holds, with its record.
pub(crate) struct Reached {
    pub(crate) line: u64,
    pub(crate) message: Message,
}

impl Origin {
    /// Notes in a record where it comes from.
    pub(crate) fn mark(&self, record: Record<Bytes>, line: u64) -> Record<Bytes> {
        record.header(SOURCE, &self.source).header(LINE, line.to_string())
    }

    /// The line of a record of this source.
    fn line_of(&self, message: &Message) -> Option<u64> {
        let is_ours = message.headers().get_str(SOURCE) == Some(&self.source);
        message.headers().get_str(LINE).filter(|_| is_ours)?.parse().ok()
    }

    /// The last line of this source that the topic holds.
    pub(crate) fn reached(&self, log: &Log, topic: &Topic<Bytes, Raw>) -> Outcome<Option<Reached>> {
        let description = log.describe_topic(topic.name())?;
        let all: u64 = description.partitions.iter().map(|partition| partition.high_watermark).sum();
        let mut count = LOOK_BACK;
        let commit = loop {
            let mut newest = None;
            let mut last = topic.replay(Start::Last(count)).blocking()?;
            while let Some(message) = last.next_message()? {
                if self.line_of(&message).is_some() {
                    newest = Some(message.commit());
                }
            }
            match newest {
                Some(commit) => break commit,
                None if count >= all => return Ok(None),
                None => count = count.saturating_mul(10),
            }
        };
        let mut reached: Option<Reached> = None;
        let mut newest = topic.replay(Start::Commit(commit)).blocking()?;
        while let Some(message) = newest.next_message()? {
            if let Some(line) = self.line_of(&message).filter(|line| reached.as_ref().is_none_or(|it| it.line < *line))
            {
                reached = Some(Reached { line, message });
            }
        }
        Ok(reached)
    }
}

impl Reached {
    /// Whether a record that is made of the same line now is the one that is there: else the source, or what is made of it, has
    /// changed.
    pub(crate) fn check(&self, record: &Record<Bytes>, source: &str) -> Outcome {
        if record.value.as_ref() == self.message.value() && record.key.as_ref() == self.message.key() {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "line {} of {source} is not what was imported before; import it under another name with --source, or anew with \
             --no-resume",
            self.line
        )))
    }
}
