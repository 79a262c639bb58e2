//! A projection as its user holds it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::shared::{Phase, Progress, Rebuild, Shared, Status, closed};
use super::state::{Entries, decode};
use crate::consumer::{Lag, TopicPartition};
use crate::error::{Error, Gap, Result};
use crate::log::running::Running;
use crate::producer::Receipt;
use crate::task::unblock;

/// A state that follows topics: every record of theirs is taken in once, in the order of the commits, by functions of the application.
///
/// The state is kept in the directory of the log, each batch of changes together with the places up to which the log was read. So
/// whatever happens, the state is that of the records before its places: each of them has left its mark exactly once. It can be
/// made again from the log, and is if it is lost, damaged, of another version, or of records that the log has lost; what there was is
/// renamed then, and kept beside it until somebody removes it.
///
/// A projection of many records takes a while to be built; until it has come to the end of the log for the first time nothing of it is
/// shown ([`ready`](Self::ready) waits for that). From then on it follows: [`wait_for`](Self::wait_for) waits until it has come to what
/// was written.
///
/// An error, or a panic, of a function stops the projection: the state stays as it was before that record, everything that waits gets
/// the error, whose [`failed_record`](Error::failed_record) is the culprit, and so does [`error`](Self::error). To be spawned again is
/// to try the record again.
///
/// Handles are cheap to clone. The projection ends with the last of them, by [`close`](Self::close), or with the log. Dropping the last
/// handle waits until the record that is being taken in is done.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// use annals::{Json, Log, Record, TopicDef, TopicSettings};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum Case {
///     Opened { by: String },
///     Closed,
/// }
///
/// const CASES: TopicDef<Case, Json> = TopicDef::new("cases");
///
/// let log = Log::in_memory()?;
/// let cases = log.create_topic(CASES, TopicSettings::default().partitions(4)).await?;
/// let open = log
///     .projection("open-cases", 1)
///     .on(CASES, |state, message| {
///         let Some(case) = message.key() else { return Ok(()) };
///         match message.event() {
///             Some(Case::Opened { by }) => state.put(case, by)?,
///             Some(Case::Closed) | None => state.remove(case),
///         }
///         Ok(())
///     })
///     .spawn()
///     .await?;
///
/// cases.produce(Record::new(Case::Opened { by: "Ada".into() }).key("case-1")).await?;
/// let receipt = cases.produce(Record::new(Case::Opened { by: "Bob".into() }).key("case-2")).await?;
/// open.wait_for(&receipt).await?;
/// assert_eq!(open.get::<String>("case-1")?.as_deref(), Some("Ada"));
///
/// let receipt = cases.produce(Record::new(Case::Closed).key("case-1")).await?;
/// open.wait_for(&receipt).await?;
/// assert_eq!(open.range::<String>("case-")?, [("case-2".into(), "Bob".to_owned())]);
/// open.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Projection {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    /// Keeps the log open.
    _log: Arc<Running>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.shared.fmt(f)
    }
}

impl Projection {
    pub(super) fn new(shared: Arc<Shared>, log: Arc<Running>) -> Self {
        Self { handle: Arc::new(Handle { shared, _log: log }) }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    #[cfg(test)]
    pub(in crate::sourcing) fn spoil(&self, key: &[u8]) {
        self.shared().spoil(key);
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.shared().name
    }

    /// The value of a key, as of the last batch of records.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) while it is being built, also again since this call has found it damaged;
    /// [`Codec`](crate::ErrorKind::Codec) for a value of another type; [`Closed`](crate::ErrorKind::Closed). A projection that has
    /// stopped answers with what it had before.
    pub fn get<V: Serialize + DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<V>> {
        let key = key.as_ref();
        let value = self.shared().shown(|view| view.get(key))?;
        value.map(|value| decode(key, value)).transpose()
    }

    /// The keys that begin with `prefix` and their values, sorted by the keys, all as of one batch of records. An empty prefix is all.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn range<V: Serialize + DeserializeOwned>(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Bytes, V)>> {
        let prefix = prefix.as_ref();
        self.page(prefix, prefix, usize::MAX)
    }

    /// At most `limit` of the keys that begin with `prefix`, from the key `from` on, for those who do not want all at once.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn page<V: Serialize + DeserializeOwned>(
        &self,
        prefix: impl AsRef<[u8]>,
        from: impl AsRef<[u8]>,
        limit: usize,
    ) -> Result<Entries<V>> {
        let found = self.shared().shown(|view| view.range(prefix.as_ref(), from.as_ref(), limit))?;
        found.into_iter().map(|(key, value)| decode(&key, value).map(|value| (Bytes::from(key), value))).collect()
    }

    /// Waits until the state has everything that was written up to this receipt: whoever was given the receipt reads their writes. The
    /// receipt may be of any topic of the log.
    ///
    /// # Errors
    ///
    /// What has stopped the projection, [`Failed`](crate::ErrorKind::Failed) most of all; [`Closed`](crate::ErrorKind::Closed).
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub async fn wait_for(&self, receipt: &Receipt) -> Result<()> {
        self.look();
        self.shared().wait(|status| has(status, &self.shared().name, receipt.commit)).await
    }

    /// [`wait_for`](Self::wait_for) for threads.
    ///
    /// # Errors
    ///
    /// As [`wait_for`](Self::wait_for).
    pub fn blocking_wait_for(&self, receipt: &Receipt) -> Result<()> {
        self.look();
        self.shared().blocking_wait(|status| has(status, &self.shared().name, receipt.commit))
    }

    /// Has the thread look how far the log is: what it does not follow does not wake it.
    fn look(&self) {
        self.shared().ask(|_| ());
    }

    /// Waits until the projection is built: until it has come to the end of the log once.
    ///
    /// # Errors
    ///
    /// As [`wait_for`](Self::wait_for).
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub async fn ready(&self) -> Result<()> {
        self.shared().wait(|status| is_built(status, &self.shared().name)).await
    }

    /// [`ready`](Self::ready) for threads.
    ///
    /// # Errors
    ///
    /// As [`wait_for`](Self::wait_for).
    pub fn blocking_ready(&self) -> Result<()> {
        self.shared().blocking_wait(|status| is_built(status, &self.shared().name))
    }

    /// Whether the projection is built.
    pub fn is_ready(&self) -> bool {
        self.shared().status(|status| matches!(status.phase, Phase::Following))
    }

    /// How far the projection has come in a partition: the offset of the next record; `None` for one that it does not follow.
    pub fn position(&self, topic: &str, partition: u32) -> Option<u64> {
        let topic = self.shared().topics.iter().find(|followed| *followed.name == *topic)?;
        let known = topic.partition(partition).ok()?;
        let place = |status: &Status| status.places.get(&known.key()).map(|place| place.next_offset);
        Some(self.shared().status(place).unwrap_or(0))
    }

    /// How far the projection is behind, in each partition.
    pub fn lag(&self) -> Vec<Lag> {
        let mut lag = Vec::new();
        for topic in &self.shared().topics {
            for partition in topic.partitions().iter() {
                let number = partition.owner.partition;
                let position = self.position(&topic.name, number).unwrap_or(0);
                let partition_name = TopicPartition { topic: topic.name.to_string(), partition: number };
                lag.push(Lag { partition: partition_name, position, high_watermark: partition.visible_end() });
            }
        }
        lag
    }

    /// How many records were taken in since the projection was spawned, or begun anew, and how many offsets are left.
    pub fn progress(&self) -> Progress {
        let to_do = self.lag().iter().map(Lag::records).sum();
        Progress { done: self.shared().status(|status| status.done), to_do }
    }

    /// The records that had gone before the projection came to them: retention, a deletion or a repair was faster. The state lacks them,
    /// also after it was closed and spawned again.
    pub fn gaps(&self) -> Vec<Gap> {
        let shared = self.shared();
        let mut gaps = Vec::new();
        shared.status(|status| {
            for topic in &shared.topics {
                for partition in topic.partitions().iter() {
                    let of = status.places.get(&partition.key()).into_iter().flat_map(|place| &place.gaps);
                    let (topic, number) = (topic.name.to_string(), partition.owner.partition);
                    gaps.extend(of.map(|(from, to)| Gap {
                        topic: topic.clone(),
                        partition: number,
                        from: *from,
                        to: *to,
                    }));
                }
            }
        });
        gaps
    }

    /// Why the state was built anew, if it was since the projection was spawned; `None` if what there was could be used.
    pub fn last_rebuild(&self) -> Option<Rebuild> {
        self.shared().status(|status| status.rebuild.clone())
    }

    /// What has stopped the projection.
    pub fn error(&self) -> Option<Error> {
        self.shared().status(|status| match &status.phase {
            Phase::Failed(error) => Some(error.clone()),
            Phase::Building | Phase::Following | Phase::Closed => None,
        })
    }

    /// Sets aside what there is, and builds the state again from the log. From now on nothing is shown until that is done:
    /// [`ready`](Self::ready) waits for it. One that has stopped begins again.
    pub fn rebuild(&self) {
        self.shared().want_rebuild(Rebuild::Asked);
    }

    /// Writes out what there is and ends the projection, whatever handles are still alive. The record that is being taken in is done
    /// first. Closing again does nothing.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the closing goes on.
    pub async fn close(&self) {
        let shared = Arc::clone(&self.handle.shared);
        let work = move || {
            shared.close();
            Ok(())
        };
        // Nothing in it fails but a runtime that is shut down, and that closes the log.
        drop(unblock(work).await);
    }

    /// [`close`](Self::close) for threads.
    pub fn blocking_close(&self) {
        self.shared().close();
    }
}

fn stopped(status: &Status, name: &str) -> Option<Result<()>> {
    match &status.phase {
        Phase::Failed(error) => Some(Err(error.clone())),
        Phase::Closed => Some(Err(closed(name))),
        Phase::Building | Phase::Following => None,
    }
}

fn is_built(status: &Status, name: &str) -> Option<Result<()>> {
    stopped(status, name).or_else(|| matches!(status.phase, Phase::Following).then_some(Ok(())))
}

fn has(status: &Status, name: &str, commit: u64) -> Option<Result<()>> {
    let is_there = matches!(status.phase, Phase::Following) && status.read_below > commit;
    if is_there { Some(Ok(())) } else { stopped(status, name) }
}
