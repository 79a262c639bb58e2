//! Reading on a thread, with records that borrow the reader's memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::reader::{Item, Reader, Scope};
use super::view::RecordView;
use crate::codec::{Codec, Raw};
use crate::error::{Corruption, Error, Result};
use crate::format::record::{RecordIter, RecordPosition};
use crate::log::running::Running;
use crate::log::topic::TopicState;
use crate::record::Message;
use crate::task::block;

/// Reads records on a thread: a *lending* iterator, whose records borrow its memory until the next call.
///
/// Made by [`Replay::blocking`](super::Replay::blocking).
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// # use annals::{Log, Record, Start, TopicSettings};
/// # let log = Log::in_memory()?;
/// # let topic = log.create_raw_topic("lines", TopicSettings::default()).await?;
/// # topic.produce(Record::new("one".into())).await?;
/// let mut history = topic.replay(Start::Earliest).blocking()?;
/// while let Some(record) = history.next()? {
///     println!("{} {:?}", record.offset(), record.value());
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct BlockingReplay<T, C> {
    reader: Reader,
    codec: Arc<C>,
    current: Option<Current>,
    /// Keeps the log open.
    _log: Arc<Running>,
    values: std::marker::PhantomData<fn() -> T>,
}

/// The frame that records are lent from.
#[derive(Debug)]
pub(crate) struct Current {
    item: Item,
    position: RecordPosition,
}

impl Current {
    /// Begins a frame, before its first record that is wanted.
    pub(crate) fn begin(item: Item, pass_over: &mut u64) -> Result<Self> {
        let mut records = RecordIter::new(&item.frame.header, &item.frame.body);
        let mut position = records.state(&item.frame.body);
        let begins_before = item.frame.header.base_offset < item.from;
        while (begins_before || *pass_over > 0) && position.left > 0 {
            let Some(record) = records.next_record().map_err(|why| malformed(&item, why))? else { break };
            if record.offset >= item.from {
                if *pass_over == 0 {
                    break;
                }
                *pass_over -= 1;
            }
            position = records.state(&item.frame.body);
        }
        Ok(Self { item, position })
    }

    /// The next record of the frame.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<RecordView<'_>>> {
        let Item { topic, partition, frame, .. } = &self.item;
        let mut records = RecordIter::resume(&frame.header, &frame.body, self.position);
        match records.next_record() {
            Ok(Some(record)) => {
                self.position = records.state(&frame.body);
                Ok(Some(RecordView::new(topic, *partition, frame.header.commit, record, &frame.body)))
            }
            Ok(None) => Ok(None),
            Err(why) => Err(malformed(&self.item, why)),
        }
    }

    /// A place to [come back](Self::reset) to.
    #[inline]
    pub(crate) fn mark(&self) -> RecordPosition {
        self.position
    }

    pub(crate) fn reset(&mut self, mark: RecordPosition) {
        self.position = mark;
    }

    /// How many records of the frame follow.
    pub(crate) fn left(&self) -> usize {
        self.position.left as usize
    }

    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.position.left == 0
    }
}

fn malformed(item: &Item, why: crate::format::FormatError) -> Error {
    let header = &item.frame.header;
    Error::corrupt(
        format!("a frame whose checksum holds is malformed: {why}"),
        Corruption {
            file: format!("topics/{}/{}", item.topic, item.partition),
            topic: Some(item.topic.to_string()),
            partition: Some(item.partition),
            position: 0,
            first_offset: Some(header.base_offset),
            next_offset: Some(header.next_offset()),
        },
    )
}

impl<T, C: Codec<T>> BlockingReplay<T, C> {
    pub(super) fn new(reader: Reader, log: Arc<Running>, codec: Arc<C>) -> Self {
        Self { reader, codec, current: None, _log: log, values: std::marker::PhantomData }
    }

    /// The next record, lent until the next call; `None` at the end of what was there when the reading began. A reader that
    /// [follows](super::Replay::follow) waits instead.
    ///
    /// # Errors
    ///
    /// [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange) with a [gap](crate::Error::gap), once, where retention was faster
    /// than this reader: the next call goes on behind it. [`Corrupt`](crate::ErrorKind::Corrupt) where bytes are damaged,
    /// [`Io`](crate::ErrorKind::Io); following,
    /// [`Closed`](crate::ErrorKind::Closed) and [`NotFound`](crate::ErrorKind::NotFound) once the log is closed or the topic
    /// deleted, and all is read.
    #[expect(clippy::should_implement_trait, reason = "records are lent, which `Iterator` cannot express")]
    #[inline]
    pub fn next(&mut self) -> Result<Option<RecordView<'_>>> {
        if self.current.as_ref().is_none_or(Current::is_over) && !self.advance()? {
            return Ok(None);
        }
        match &mut self.current {
            Some(current) => current.next(),
            None => Ok(None),
        }
    }

    /// [`next`](Self::next) as a message with a decoded value.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next), and [`Codec`](crate::ErrorKind::Codec) for a value that cannot be decoded: the record is passed
    /// over, and the next call goes on behind it.
    pub fn next_message(&mut self) -> Result<Option<Message<T>>> {
        let message = match self.next()? {
            Some(view) => view.to_message(),
            None => return Ok(None),
        };
        decode(&*self.codec, message).map(Some)
    }

    /// Calls `each` with every record up to the end.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next), and whatever `each` answers.
    pub fn try_for_each(&mut self, mut each: impl FnMut(RecordView<'_>) -> Result<()>) -> Result<()> {
        while let Some(record) = self.next()? {
            each(record)?;
        }
        Ok(())
    }

    /// Moves to the next frame that has a wanted record.
    fn advance(&mut self) -> Result<bool> {
        loop {
            match self.step()? {
                Step::Frame => return Ok(true),
                Step::Waits => block(|cx| self.reader.poll_changed(cx)),
                Step::Over => return Ok(false),
            }
        }
    }

    fn step(&mut self) -> Result<Step> {
        loop {
            // Dropped first, so that the reader may use the memory again.
            self.current = None;
            let next = self.reader.next().inspect_err(|error| {
                // Records that are gone cannot be passed over any more.
                let gone = error.gap().map_or(0, |gap| gap.to - gap.from);
                self.reader.pass_over = self.reader.pass_over.saturating_sub(gone);
            });
            match next? {
                Some(item) => {
                    let current = Current::begin(item, &mut self.reader.pass_over)?;
                    if !current.is_over() {
                        self.current = Some(current);
                        return Ok(Step::Frame);
                    }
                }
                None if !self.reader.follows() => return Ok(Step::Over),
                None if self.reader.is_listening() => return Ok(Step::Waits),
                None => self.reader.listen(),
            }
        }
    }
}

/// What a step has come to.
enum Step {
    /// A frame is at hand.
    Frame,
    /// There is nothing now, and something may come.
    Waits,
    Over,
}

impl BlockingReplay<Bytes, Raw> {
    /// Follows some topics from these offsets on, and from the beginning where none is given. One below the log start is met with a
    /// gap.
    pub(crate) fn resume(
        log: Arc<Running>,
        topics: Vec<Arc<TopicState>>,
        offsets: &HashMap<(u128, u32), u64>,
    ) -> Result<Self> {
        let reader = Reader::resume(Arc::clone(&log.engine), Scope::Topics(topics), offsets)?;
        Ok(Self::new(reader, log, Arc::new(Raw)))
    }

    /// The next record of a reader that follows; `None` if there is none now. [`poll_changed`](Self::poll_changed) tells when to
    /// look again.
    #[inline]
    pub(crate) fn next_now(&mut self) -> Result<Option<RecordView<'_>>> {
        if self.current.as_ref().is_none_or(Current::is_over) && !matches!(self.step()?, Step::Frame) {
            return Ok(None);
        }
        match &mut self.current {
            Some(current) => current.next(),
            None => Ok(None),
        }
    }

    /// After [`next_now`](Self::next_now) has found nothing: the commit number below which all was read; `None` if there is more by
    /// now.
    pub(crate) fn read_below(&self) -> Option<u64> {
        self.reader.read_below()
    }

    /// Resolves once something has changed since [`next_now`](Self::next_now) has found nothing.
    pub(crate) fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.reader.poll_changed(cx)
    }
}

/// Decodes a message's value; the error says which record it is about.
pub(crate) fn decode<T, C: Codec<T>>(codec: &C, message: Message) -> Result<Message<T>> {
    message.try_map(|bytes| codec.decode_owned(bytes)).map_err(|(message, error)| {
        error.in_context(format!(
            "the value at topic {}, partition {}, offset {} could not be decoded",
            message.topic(),
            message.partition(),
            message.offset()
        ))
    })
}
