//! What the public surface cannot reach: the tail, the cursor, rotation and the room ahead of the writer.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;

use super::cursor::PartitionCursor;
use super::tail::Tail;
use super::{Partition, Pass};
use crate::error::ErrorKind;
use crate::format::compression::{Compression, Method};
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::format::record::{FrameBuilder, FramePlace, RecordIter};
use crate::log::engine::Engine;
use crate::log::open::open;
use crate::log::settings::{Durability, LogSettings, TopicSettings};
use crate::log::tests::env;
use crate::segment::index::Target;
use crate::segment::reader::{Frame, own_frame};
use crate::storage::fault::{Class, Fault, FaultDisk, Plan, Repeat};
use crate::storage::memory::MemoryDisk;

fn push(builder: &mut FrameBuilder, timestamp: i64, len: usize) {
    builder.push(timestamp, None, Some(&vec![7; len]), std::iter::empty());
}

/// A frame of one record whose body has a little over `len` bytes.
fn frame(offset: u64, len: usize) -> Frame {
    let mut builder = FrameBuilder::new();
    push(&mut builder, 0, len);
    let (header, bytes) =
        builder.finish(FramePlace { incarnation: 1, base_offset: offset, durable_upto: 0, commit: offset });
    own_frame(header, bytes, Bytes::copy_from_slice(&bytes[FRAME_HEADER_BYTES..]))
}

fn kept(tail: &Tail) -> Vec<u64> {
    (0..100).filter(|offset| tail.get(*offset).is_some()).collect()
}

#[test]
fn without_followers_the_tail_keeps_what_is_not_in_the_segment_and_nothing_else() {
    let tail = Tail::new(1000, 5);
    for offset in 5..8 {
        tail.push(frame(offset, 600));
    }
    assert_eq!(kept(&tail), [5, 6, 7], "whatever the bound");
    tail.written(6);
    assert_eq!(kept(&tail), [6, 7]);
    tail.written(8);
    assert!(kept(&tail).is_empty());
}

#[test]
fn followers_share_a_tail_within_its_bound_and_the_last_takes_it_along() {
    let tail = Tail::new(1000, 0);
    tail.follow();
    tail.follow();
    for offset in 0..10 {
        tail.written(offset + 1);
        tail.push(frame(offset, 300));
    }
    assert_eq!(kept(&tail), [7, 8, 9]);
    tail.unfollow();
    assert_eq!(kept(&tail), [7, 8, 9]);
    // Offsets were left out while nobody looked: what was before them is of no use.
    tail.written(21);
    tail.push(frame(20, 10));
    assert_eq!(kept(&tail), [20]);
    tail.unfollow();
    assert!(kept(&tail).is_empty());
    assert!(!tail.is_followed());
}

fn engine(storage: Arc<dyn crate::storage::Storage>) -> Engine {
    open(env(storage, 1), PathBuf::from("/log"), LogSettings::default(), true).unwrap()
}

fn partition(engine: &Engine, durability: Durability) -> Arc<Partition> {
    let settings = TopicSettings::default().durability(durability).segment_bytes_max(4096);
    engine.create_topic("t", settings).unwrap().partition(0).unwrap()
}

#[test]
fn a_cursor_begins_anywhere_and_crosses_segments_with_and_without_a_tail() {
    let engine = engine(Arc::new(MemoryDisk::default()));
    let partition = partition(&engine, Durability::Os);
    for round in 0..2 {
        for index in 0..60 {
            let fill = |builder: &mut FrameBuilder| (0..3).for_each(|_| push(builder, index, 100));
            engine.append_relaxed(&partition, Durability::Os, fill).unwrap();
        }
        assert!(partition.segments().len() > 3);
        let end = partition.visible_end();
        for from in 0..=end {
            let mut cursor = PartitionCursor::new(Arc::clone(&partition), from);
            let mut next = from;
            while let Some(frame) = cursor.next_frame(end).unwrap() {
                assert_eq!(frame.header.base_offset, next - next % 3, "a frame holds three records");
                next = frame.header.next_offset();
            }
            assert_eq!(next, end);
        }
        if round == 0 {
            partition.tail.follow();
        }
    }
    let tail = PartitionCursor::new(Arc::clone(&partition), partition.visible_end() - 1);
    assert!(tail.is_in_memory(), "the second round was followed");
}

#[test]
fn places_are_found_as_a_linear_search_finds_them() {
    let engine = engine(Arc::new(MemoryDisk::default()));
    let partition = partition(&engine, Durability::Os);
    let mut frames: Vec<(u64, i64, u64)> = Vec::new();
    for index in 0..120i64 {
        let time = index / 8 * 10 + index * 37 % 100;
        let written = engine.append_relaxed(&partition, Durability::Os, |builder| push(builder, time, 200)).unwrap();
        frames.push((written.base_offset, time, written.commit));
        if index % 50 == 0 {
            engine.do_upkeep(Duration::MAX);
        }
    }
    let end = partition.visible_end();
    for wanted in -5..400 {
        let by_time = frames.iter().find(|(_, time, _)| *time >= wanted).map_or(end, |frame| frame.0);
        assert_eq!(partition.find(Target::Timestamp(wanted)).unwrap(), by_time, "time {wanted}");
        let wanted = wanted.unsigned_abs();
        let by_commit = frames.iter().find(|(_, _, commit)| *commit >= wanted).map_or(end, |frame| frame.0);
        assert_eq!(partition.find(Target::Commit(wanted)).unwrap(), by_commit, "commit {wanted}");
    }
}

#[test]
fn the_room_ahead_is_made_and_taken_back() {
    let engine = engine(Arc::new(MemoryDisk::default()));
    let partition = partition(&engine, Durability::Sync);
    let append = || {
        let ticket = engine
            .enqueue(&partition, 400, crate::log::committer::Leader::Thread, |builder| push(builder, 0, 200))
            .unwrap();
        engine.lead();
        ticket.group.wait().clone().unwrap();
    };
    let len = || partition.segments().last().unwrap().file().unwrap().len().unwrap();
    append();
    partition.make_room_ahead();
    assert_eq!(len(), 4096, "no further than the segment goes");
    for _ in 0..3 {
        append();
        assert_eq!(len(), 4096, "records go into the room");
    }
    partition.finish().unwrap();
    assert_eq!(len(), partition.size_bytes(), "a closed log has no bytes but its own");
}

/// In tests the room ends at multiples of 512 bytes, from 4096 bytes on.
#[test]
fn a_relaxed_writer_has_aligned_room_ahead_of_it() {
    let disk = Arc::new(FaultDisk::new(Arc::new(MemoryDisk::default())));
    let engine = engine(Arc::clone(&disk) as _);
    let settings = TopicSettings::default().durability(Durability::Os).segment_bytes_max(1 << 20);
    let partition = engine.create_topic("t", settings).unwrap().partition(0).unwrap();
    let len = || partition.segments().last().unwrap().file().unwrap().len().unwrap();
    let append = |bytes| engine.append_relaxed(&partition, Durability::Os, |builder| push(builder, 0, bytes)).unwrap();
    while partition.size_bytes() < 512 {
        append(100);
        assert_eq!(len(), partition.size_bytes(), "a small file has no room ahead");
    }
    for bytes in (0..900).chain([10; 20]) {
        append(bytes);
        assert_eq!(len(), partition.size_bytes().next_multiple_of(512));
    }
    append(2000);
    assert_eq!(len(), partition.size_bytes(), "no room for a large frame");
    // Room that cannot be made is done without.
    disk.arm(Plan { classes: &[Class::Write], at: 0, fault: Fault::Enospc, repeat: Repeat::Once });
    append(10);
    assert_eq!((disk.fired(), len()), (1, partition.size_bytes()));
    append(10);
    assert!(len() > partition.size_bytes());
    partition.finish().unwrap();
    assert_eq!(len(), partition.size_bytes(), "a closed log has no bytes but its own");
    let mut cursor = PartitionCursor::new(Arc::clone(&partition), 0);
    for offset in 0..partition.visible_end() {
        assert_eq!(cursor.next_frame(u64::MAX).unwrap().unwrap().header.base_offset, offset);
    }
}

/// The sync that sealing a segment needs has failed; the next one succeeds without having written anything.
#[test]
fn a_sync_that_failed_in_a_rotation_is_not_tried_again() {
    let disk = Arc::new(FaultDisk::new(Arc::new(MemoryDisk::default())));
    let engine = engine(Arc::clone(&disk) as _);
    let partition = partition(&engine, Durability::Sync);
    let first = engine
        .enqueue(&partition, 300, crate::log::committer::Leader::Thread, |builder| push(builder, 0, 100))
        .unwrap();
    let mut large = FrameBuilder::new();
    push(&mut large, 0, 4000);
    let second = engine
        .committer
        .enqueue_unit(vec![(Arc::clone(&partition), large)], crate::log::committer::Leader::Thread)
        .unwrap();
    disk.arm(Plan { classes: &[Class::Sync], at: 0, fault: Fault::Eio, repeat: Repeat::Once });
    engine.lead();
    assert_eq!(disk.fired(), 1);
    for group in [&first.group, &second] {
        assert_eq!(group.wait().clone().unwrap_err().kind(), ErrorKind::Poisoned);
    }
    assert_eq!((partition.visible_end(), partition.durable_end()), (0, 0));
}

#[test]
fn an_append_that_fails_wakes_who_was_held_up_by_its_number() {
    let disk = Arc::new(FaultDisk::new(Arc::new(MemoryDisk::default())));
    let engine = engine(Arc::clone(&disk) as _);
    let partition = partition(&engine, Durability::Os);
    partition.follow();
    let mut listener = partition.changed.listen();
    disk.arm(Plan { classes: &[Class::Write], at: 0, fault: Fault::Eio, repeat: Repeat::Once });
    let next = AtomicU64::new(1);
    partition.append_relaxed(Pass::Open, &next, |builder| push(builder, 0, 10)).unwrap_err();
    assert_eq!(partition.inflight(), super::IDLE);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(std::future::Future::poll(std::pin::Pin::new(&mut listener), &mut cx).is_ready());
    let written = partition.append_relaxed(Pass::Open, &next, |builder| push(builder, 0, 10)).unwrap();
    let mut cursor = PartitionCursor::new(Arc::clone(&partition), written.unwrap().base_offset);
    let frame = cursor.next_frame(u64::MAX).unwrap().unwrap();
    assert_eq!(RecordIter::new(&frame.header, &frame.body).next_record().unwrap().unwrap().offset, 0);
}

/// Changed while the topic is open: frames that are there stay as they are, and all are read.
#[test]
fn compression_changes_with_the_next_frame() {
    let engine = engine(Arc::new(MemoryDisk::default()));
    let partition = partition(&engine, Durability::Os);
    let kinds = [Compression::None, Compression::Zstd { level: 7 }, Compression::Lz4, Compression::None];
    for compression in kinds {
        partition.config.live.set_compression(compression);
        assert_eq!(partition.config.live.compression(), compression);
        engine.append_relaxed(&partition, Durability::Os, |builder| push(builder, 1, 500)).unwrap();
    }
    let mut cursor = PartitionCursor::new(Arc::clone(&partition), 0);
    for method in [Method::Plain, Method::Zstd, Method::Lz4, Method::Plain] {
        let frame = cursor.next_frame(4).unwrap().unwrap();
        assert_eq!(frame.header.compression, method);
        let value = RecordIter::new(&frame.header, &frame.body).next_record().unwrap().unwrap().value;
        assert_eq!(value, Some(&[7; 500][..]));
    }
}

/// Or the log of a partition that never rests would be read from its beginning after a crash.
#[test]
fn the_checkpoint_of_a_partition_that_is_written_to_without_a_pause_names_what_the_last_sync_covered() {
    let engine = engine(Arc::new(MemoryDisk::default()));
    let partition = partition(&engine, Durability::Os);
    let append = |count: u64| {
        for _ in 0..count {
            engine.append_relaxed(&partition, Durability::Os, |builder| push(builder, 0, 100)).unwrap();
        }
    };
    append(30);
    assert!(partition.checkpoint_entry().is_none(), "nothing was synced yet");
    partition.sync_written().unwrap();
    let synced = partition.checkpoint_entry().unwrap().place;
    assert_eq!((synced.next_offset, partition.since_checkpoint()), (30, 0));
    for _ in 0..2 {
        // What was written since may have begun another file.
        append(20);
        assert_eq!(partition.checkpoint_entry().unwrap().place, synced);
        assert!(partition.since_checkpoint() > 0);
    }
    partition.sync_written().unwrap();
    assert_eq!(partition.checkpoint_entry().unwrap().place.next_offset, 70);
}
