//! States that are folds of a stream, and the snapshots that save reading all of it.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::place::{self, Read};
use super::snapshots::Snapshots;
use super::stream::EventStream;
use crate::codec::{Bincode, Codec};
use crate::error::{Gap, Result};
use crate::expected::Expected;
use crate::find::mark_of;
use crate::record::Message;
use crate::task::unblock;
use crate::views::snapshots::{Of, Saved};

/// A state that is made of the events of a [stream](EventStream), one after the other, from nothing.
///
/// The same events must make the same state: no clock, no chance, nothing from outside.
///
/// # Example
///
/// See [`EventStream`].
pub trait Aggregate: Default + Send + 'static {
    /// The type of the topic's events.
    type Event;

    /// Takes an event in. It has happened: there is nothing to refuse. `message` has its time, headers and offset. A tombstone is not
    /// given to this: it begins a new state.
    fn apply(&mut self, event: &Self::Event, message: &Message<Self::Event>);
}

/// An aggregate whose state is saved now and then, so that [`load_snapshot`](EventStream::load_snapshot) reads only what came after.
///
/// The state is saved with [`Bincode`]. A snapshot is never more than what it saves reading: one that is missing, damaged, of another
/// version, or of records that are not in the log any more is made anew from the events.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// use annals::{Aggregate, Bincode, Expected, Log, Message, Snapshot, TopicDef, TopicSettings};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Sum(i64);
///
/// impl Aggregate for Sum {
///     type Event = i64;
///
///     fn apply(&mut self, event: &i64, _: &Message<i64>) {
///         self.0 += event;
///     }
/// }
///
/// impl Snapshot for Sum {
///     const NAME: &'static str = "sum";
///     const VERSION: u32 = 1;
///     const EVERY: u64 = 1000;
/// }
///
/// let log = Log::in_memory()?;
/// let numbers: TopicDef<i64, Bincode> = TopicDef::new("numbers");
/// let numbers = log.create_topic(numbers, TopicSettings::default().index_keys(true)).await?;
/// let stream = numbers.stream("a");
/// stream.append(1..=1000, Expected::Empty).await?;
/// assert_eq!(stream.load_snapshot::<Sum>().await?.read, 1000);
///
/// stream.append([1], Expected::Any).await?;
/// let loaded = stream.load_snapshot::<Sum>().await?;
/// assert_eq!((loaded.state.0, loaded.read), (500_501, 1));
/// # Ok(()) }
/// ```
pub trait Snapshot: Aggregate + Serialize + DeserializeOwned {
    /// Tells the snapshots of this aggregate from those of others of the same stream.
    const NAME: &'static str;

    /// To be raised whenever the type or [`apply`](Aggregate::apply) changes: snapshots of another version are not used.
    const VERSION: u32;

    /// A snapshot is saved by whoever loads the state and has read at least so many events; by default 100.
    const EVERY: u64 = 100;
}

/// A state, and what it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded<A> {
    /// The state.
    pub state: A,
    /// The version of the stream: what to expect of an [`append`](EventStream::append) that was decided on by this state.
    pub version: Expected,
    /// How many events made the state, those in a snapshot included.
    pub events: u64,
    /// How many records were read for it.
    pub read: u64,
    /// Records of the partition that had gone before they were read, if there are any: events of the stream may have been among
    /// them, and the state may lack them. Made of such records nothing is saved as a snapshot.
    pub gap: Option<Gap>,
}

impl<T: 'static, C: Codec<T>> EventStream<T, C> {
    /// Makes the state of all events.
    ///
    /// # Errors
    ///
    /// [`Codec`](crate::ErrorKind::Codec) for an event that cannot be decoded: a state without it would be wrong.
    /// [`Closed`](crate::ErrorKind::Closed), [`NotFound`](crate::ErrorKind::NotFound) for a topic that was deleted,
    /// [`Corrupt`](crate::ErrorKind::Corrupt), [`Io`](crate::ErrorKind::Io).
    ///
    /// # Panics
    ///
    /// If [`apply`](Aggregate::apply) does.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed; the reading goes on until its end.
    ///
    /// # Example
    ///
    /// See [`EventStream`].
    pub async fn load<A: Aggregate<Event = T>>(&self) -> Result<Loaded<A>> {
        let stream = self.clone();
        unblock(move || stream.blocking_load()).await
    }

    /// [`load`](Self::load) for threads.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Panics
    ///
    /// As [`load`](Self::load).
    pub fn blocking_load<A: Aggregate<Event = T>>(&self) -> Result<Loaded<A>> {
        self.fold(A::default(), None)
    }

    /// [`load`](Self::load) from the newest snapshot on. Saves one, if enough events were read. In a log that is open read-only they
    /// are saved in memory.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load). Nothing that happens to a snapshot is an error.
    ///
    /// # Panics
    ///
    /// As [`load`](Self::load).
    ///
    /// # Cancel safety
    ///
    /// The reading, and the saving, go on until their end.
    ///
    /// # Example
    ///
    /// See [`Snapshot`].
    pub async fn load_snapshot<A: Snapshot + Aggregate<Event = T>>(&self) -> Result<Loaded<A>> {
        let stream = self.clone();
        unblock(move || stream.blocking_load_snapshot()).await
    }

    /// [`load_snapshot`](Self::load_snapshot) for threads.
    ///
    /// # Errors
    ///
    /// As [`load_snapshot`](Self::load_snapshot).
    ///
    /// # Panics
    ///
    /// As [`load`](Self::load).
    pub fn blocking_load_snapshot<A: Snapshot + Aggregate<Event = T>>(&self) -> Result<Loaded<A>> {
        let engine = &self.topic.log.engine;
        engine.check_open()?;
        let Some(snapshots) = Snapshots::of(engine) else { return self.blocking_load() };
        let partition = self.partition()?;
        let of = Of { whose: partition.key(), aggregate: A::NAME, key: &self.key };
        let saved = snapshots.load(engine, of).filter(|saved| saved.version == u64::from(A::VERSION));
        let mut begin = None;
        if let Some(mut saved) = saved {
            let Saved { offset, commit, crc, .. } = saved;
            let read = Read { next_offset: offset.saturating_add(1), commit, crc };
            let state = Bincode.decode(&Bytes::from(std::mem::take(&mut saved.state)));
            if let (Ok(state), None) = (state, place::differs_at(&partition, read)?) {
                begin = Some((state, saved));
            }
        }
        let (state, saved) = begin.map_or_else(|| (A::default(), None), |(state, saved)| (state, Some(saved)));
        let loaded = self.fold(state, saved)?;
        if let Expected::Exact(offset) = loaded.version
            && loaded.read >= A::EVERY.max(1)
            && loaded.gap.is_none()
            && let Some((commit, crc)) = mark_of(&partition, offset)?
        {
            let (mut state, events) = (Vec::new(), loaded.events);
            match Bincode.encode(&loaded.state, &mut state) {
                Ok(()) => {
                    let version = u64::from(A::VERSION);
                    snapshots.save(engine, of, &Saved { version, offset, commit, crc, events, state });
                }
                Err(error) => tracing::warn!(%error, aggregate = A::NAME, "a snapshot could not be encoded"),
            }
        }
        Ok(loaded)
    }

    /// Takes in what came after `begun`.
    fn fold<A: Aggregate<Event = T>>(&self, mut state: A, begun: Option<Saved>) -> Result<Loaded<A>> {
        let (from, mut events) = begun.as_ref().map_or((0, 0), |saved| (saved.offset.saturating_add(1), saved.events));
        let mut version = begun.map_or(Expected::Empty, |saved| Expected::Exact(saved.offset));
        let mut read = 0;
        for message in self.read_from(from).blocking()? {
            let message = message?;
            read += 1;
            match message.event() {
                Some(event) => {
                    state.apply(event, &message);
                    events += 1;
                    version = Expected::Exact(message.offset());
                }
                None => (state, events, version) = (A::default(), 0, Expected::Empty),
            }
        }
        let partition = self.partition()?;
        // Asked after the reading: retention may have been faster than that.
        let to = partition.log_start();
        let (topic, number) = (self.topic.name().to_owned(), partition.owner.partition);
        let gap = (to > from).then_some(Gap { topic, partition: number, from, to });
        // What is no longer in the log is no version of anything: an append would be held against none.
        if let Expected::Exact(newest) = version
            && newest < to
        {
            version = Expected::Empty;
        }
        Ok(Loaded { state, version, events, read, gap })
    }
}
