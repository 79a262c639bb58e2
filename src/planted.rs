//! Deliberate defects, each behind a switch that exists in test builds only. The simulator must find every one of them:
//! that is what says that it would find the ones nobody planted.

/// A defect that can be switched on for the current thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "constructed by tests only"))]
pub(crate) enum Bug {
    /// A commit of one partition is acknowledged without a sync.
    AckBeforeSync,
    /// A commit of several partitions is acknowledged without a sync of the journal.
    JournalAckBeforeSync,
    /// A record is visible before its sync.
    VisibleBeforeSync,
    /// The directory is not synced after a segment was created.
    SegmentDirNotSynced,
    /// The header of a new segment is not synced.
    SegmentHeaderNotSynced,
    /// The directory is not synced after a topic was created.
    TopicDirNotSynced,
    /// A failed sync is tried again and believed.
    RetriedSync,
    /// Recovery goes on after a hole.
    ResyncPastHole,
    /// Recovery believes a header without checking the body.
    BodyNotChecked,
    /// Stale bytes of a recycled file pass for data.
    IncarnationIgnored,
    /// Recovery serves the tail it adopts without writing it out again.
    AdoptedTailNotSynced,
    /// The journal is freed before the partition files are synced.
    CheckpointBeforeSync,
    /// Recovery does not read the journal.
    JournalNotRedone,
    /// Recovery redoes only the first frame of an entry.
    PartialRedo,
    /// Recovery reads the newest journal file only.
    OldJournalIgnored,
    /// Damage below what was durable is cut off like an unfinished write.
    RotTruncated,
    /// A failed write moves the end of the segment all the same.
    FailedWriteAdvances,
    /// Commit numbers start again after a crash.
    CommitNumbersReused,
    /// The manifest is written over in place.
    ManifestOneSlot,
    /// The clean-close mark stays while the log is open.
    CleanMarkStays,
    /// Recovery believes the footer of a segment that nobody synced.
    FooterBelieved,
    /// Opening takes a manifest slot out of the cache for durable.
    ManifestSlotTrusted,
    /// A journal file that the manifest does not count is not read, whatever it holds.
    JournalUncounted,
    /// A relaxed partition takes records behind a commit that the journal may hold.
    RelaxedBehindJournal,
    /// Recovery does not sync what it has redone.
    RedoNotSynced,
    /// Whole entries that a failed write of the journal left are not taken away.
    JournalNotCleared,
    /// A torn footer is taken for the end of the partition.
    TornFooterCuts,
    /// The names that are found after a crash are built upon as they are.
    NamesNotAdopted,
    /// A receipt names the wrong offset.
    ReceiptOffByOne,
    /// A journal entry is written before its frames have room in the partition files.
    RoomNotMade,
    /// An entry over several partitions is written as one entry for each.
    CommitSplit,
    /// The checkpoint claims bytes that were never synced.
    CheckpointAhead,
    /// The tail that is cut off is not kept.
    CutNotSaved,
    /// The checkpoint does not say where a partition starts after its oldest files have gone.
    LogStartNotPersisted,
    /// The oldest files go before the disk knows that the partition starts behind them.
    FilesRemovedFirst,
    /// What a crash has left of files below the log start is opened like any other.
    LeftoversKept,
    /// What a compressed body says of its length is taken for true.
    DecompressedLengthTrusted,
    /// Who has lost a partition may still commit.
    FenceIgnored,
    /// A transaction commits its offsets by themselves, before its records.
    TransactionSplit,
    /// A group goes on where it was though the log has lost what lay there.
    LostOffsetsTrusted,
    /// A commit moves past messages that are not finished.
    UnfinishedPassed,
    /// A conditional append does not wait for what is under way.
    GuardDecidesEarly,
    /// An append that has failed counts as written for those that repeat it, or expect a version.
    RefusedAppendRemembered,
    /// What a view says is believed though the log has lost it.
    ViewBelieved,
    /// A compaction takes a record away because of a later one in the segment that is being written.
    CompactionDropsHead,
    /// A compacted file gets its name without having been synced.
    CompactedNotSynced,
    /// A compacted file is synced only after it has got its name.
    CompactedSyncedLate,
    /// The files that a compacted one stands for are removed before its name is durable.
    CompactedDirNotSynced,
    /// Recovery leaves files that a compacted one stands for.
    SupersededNotRemoved,
    /// Recovery removes files that a compacted one stands for before it has made that one's name durable.
    SupersededRemovedEarly,
    /// Recovery takes a file for one that lies below the log start because the next file's name does.
    EndOfLeftoverGuessed,
    /// A tombstone goes with the first compaction that sees it.
    TombstoneDroppedEarly,
    /// Recovery redoes frames of the journal into a file that a compaction has made.
    RedoIntoCompacted,
    /// A log that is opened read-only shows what may not be on the disk.
    ReadOnlyUnsynced,
    /// It does not look into the journal.
    ReadOnlyJournalIgnored,
    /// Frames are stored through the memory of a file that is cut.
    WindowKeptOverCut,
    /// Frames are stored through memory where the file was made longer and nothing was written.
    WindowOverHole,
    /// No room is kept for a full disk.
    ReserveNotMade,
    /// A write that fails gives up the room that is kept for a full disk.
    ReserveGivenBack,
    /// A segment whose end has no room for it takes no records out of the reserve.
    ReserveNotUsed,
}

#[cfg(test)]
impl Bug {
    /// All of them.
    pub(crate) const ALL: &[Self] = &[
        Self::AckBeforeSync,
        Self::JournalAckBeforeSync,
        Self::VisibleBeforeSync,
        Self::SegmentDirNotSynced,
        Self::SegmentHeaderNotSynced,
        Self::TopicDirNotSynced,
        Self::RetriedSync,
        Self::ResyncPastHole,
        Self::BodyNotChecked,
        Self::IncarnationIgnored,
        Self::AdoptedTailNotSynced,
        Self::CheckpointBeforeSync,
        Self::JournalNotRedone,
        Self::PartialRedo,
        Self::OldJournalIgnored,
        Self::RotTruncated,
        Self::FailedWriteAdvances,
        Self::CommitNumbersReused,
        Self::ManifestOneSlot,
        Self::CleanMarkStays,
        Self::FooterBelieved,
        Self::ManifestSlotTrusted,
        Self::JournalUncounted,
        Self::RelaxedBehindJournal,
        Self::RedoNotSynced,
        Self::JournalNotCleared,
        Self::TornFooterCuts,
        Self::NamesNotAdopted,
        Self::ReceiptOffByOne,
        Self::RoomNotMade,
        Self::CommitSplit,
        Self::CheckpointAhead,
        Self::CutNotSaved,
        Self::LogStartNotPersisted,
        Self::FilesRemovedFirst,
        Self::LeftoversKept,
        Self::DecompressedLengthTrusted,
        Self::FenceIgnored,
        Self::TransactionSplit,
        Self::LostOffsetsTrusted,
        Self::UnfinishedPassed,
        Self::GuardDecidesEarly,
        Self::RefusedAppendRemembered,
        Self::ViewBelieved,
        Self::CompactionDropsHead,
        Self::CompactedNotSynced,
        Self::CompactedSyncedLate,
        Self::CompactedDirNotSynced,
        Self::SupersededNotRemoved,
        Self::SupersededRemovedEarly,
        Self::EndOfLeftoverGuessed,
        Self::TombstoneDroppedEarly,
        Self::RedoIntoCompacted,
        Self::ReadOnlyUnsynced,
        Self::ReadOnlyJournalIgnored,
        Self::WindowKeptOverCut,
        Self::WindowOverHole,
        Self::ReserveNotMade,
        Self::ReserveGivenBack,
        Self::ReserveNotUsed,
    ];
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether `bug` is switched on; `false`, and optimised away, outside of tests.
#[cfg(test)]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn is(_bug: Bug) -> bool {
    false
}

/// Switches `bug` on for this thread while `run` runs.
#[cfg(test)]
pub(crate) fn with<T>(bug: Option<Bug>, run: impl FnOnce() -> T) -> T {
    PLANTED.set(bug);
    let answer = run();
    PLANTED.set(None);
    answer
}
