//! One situation each, of those that docs/RELIABILITY.md promises something for.

use std::path::Path;
use std::sync::Arc;

use super::bench::{Bench, TOPIC, builder, damaged_offsets, settings, unit, values};
use super::{Verdict, ensure};
use crate::error::ErrorKind;
use crate::format::compression::Method;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::format::record::{FrameBuilder, FramePlace};
use crate::log::committer::Leader;
use crate::log::settings::{Compression, Durability};
use crate::producer::guard::tests as guard;
use crate::storage::sim::SimFault;
use crate::storage::{OpenMode, Storage};

/// The scenarios that find the defects which no crash can show.
pub(super) const SCENARIOS: &[fn() -> Verdict] = &[
    torn_tail_is_kept,
    rot_in_the_tail_is_refused,
    stale_frames_are_no_data,
    full_disk_fails_a_unit_and_heals,
    refused_commits_stay_away,
    failed_manifest_syncs_leave_a_slot,
    journal_files_with_entries_count,
    super::read_only::what_is_seen_stays,
    super::read_only::strays_take_nothing_along,
    a_lying_length_is_damage,
    guard::a_condition_waits_for_what_is_under_way,
    guard::a_refused_append_is_forgotten,
    guard::a_view_ahead_of_the_log_is_not_believed,
    super::prefix::unsynced_segments_end_at_the_first_hole,
    super::compaction::some_cuts,
    super::reserve::a_reserve_takes_what_fits,
    super::joint::transactions_of_one_entry_are_whole,
    super::groups::lost_records_do_not_hide_those_that_follow,
    super::groups::a_former_owner_is_fenced,
    super::groups::unfinished_work_comes_again,
    super::groups::a_stage_crashes_here_and_there,
];

/// The file of the first segment of partition 0.
const SEGMENT: &str = "/data/log/topics/orders/0/00000000000000000000.log";

fn kill(bench: &Bench, engine: crate::log::engine::Engine) {
    bench.disk.kill();
    drop(engine);
}

/// Where each frame of a segment file begins.
fn frames(bytes: &[u8]) -> Vec<(usize, FrameHeader)> {
    let mut at = crate::format::segment::SEGMENT_HEADER_BYTES;
    let mut found = Vec::new();
    while let Ok(header) = FrameHeader::decode(bytes.get(at..).unwrap_or_default()) {
        found.push((at, header));
        at += header.frame_len();
    }
    found
}

/// A log of one partition with five synced records, the process killed.
fn five_records() -> (Bench, Vec<String>) {
    let bench = Bench::new(1);
    let engine = bench.open();
    bench.create(&engine, 1, Durability::Sync);
    let sent = (0..5).map(|n| bench.put(&engine, 0, &format!("record {n}")).unwrap()).collect();
    kill(&bench, engine);
    (bench, sent)
}

fn torn_tail_is_kept() -> Verdict {
    let (bench, sent) = five_records();
    let mut bytes = bench.disk.read_file(SEGMENT);
    let (last, header) = *frames(&bytes).last().expect("there are frames");
    // The last frame was never finished: half of it is there.
    let half = last + header.frame_len() / 2;
    let torn = bytes[last..half].to_vec();
    bytes.truncate(half);
    bench.disk.write_file(SEGMENT, &bytes);
    let engine = bench.open();
    ensure!(engine.report.cut_bytes == torn.len() as u64, "{:?}", engine.report);
    ensure!(engine.report.cut_saved.len() == 1, "what was cut is not kept: {:?}", engine.report);
    ensure!(bench.disk.read_file(&engine.report.cut_saved[0]) == torn, "what is kept is not what was cut");
    ensure!(values(&engine, 0) == sent[..4], "the whole frames before it must be there");
    Ok(())
}

#[test]
fn a_torn_tail_is_cut_and_kept() {
    torn_tail_is_kept().unwrap();
}

fn rot_in_the_tail_is_refused() -> Verdict {
    let (bench, sent) = five_records();
    let (at, _) = frames(&bench.disk.read_file(SEGMENT))[2];
    bench.disk.flip_bit(SEGMENT, (at + FRAME_HEADER_BYTES + 3) as u64, 5);
    let engine = bench.open();
    let damage = engine.report.damage.first().ok_or("damage below what later frames prove was not reported")?;
    ensure!(damage.kind() == ErrorKind::Corrupt, "{damage:?}");
    ensure!(damaged_offsets(damage) == (TOPIC, 0, Some(2)), "{damage:?}");
    ensure!(values(&engine, 0) == sent[..2], "what lies before the damage must be readable");
    let refused = bench.put(&engine, 0, "more").expect_err("a damaged partition takes no records");
    ensure!(refused.kind() == ErrorKind::Corrupt, "{refused:?}");
    ensure!(bench.disk.read_file(SEGMENT).len() > at + FRAME_HEADER_BYTES, "a damaged file was cut");
    Ok(())
}

#[test]
fn damage_below_what_was_durable_is_refused_and_named() {
    rot_in_the_tail_is_refused().unwrap();
}

/// A frame that fits, but for the incarnation: what a file that is used again may have behind its end.
fn stale_frames_are_no_data() -> Verdict {
    let (bench, sent) = five_records();
    let mut bytes = bench.disk.read_file(SEGMENT);
    let (last, header) = *frames(&bytes).last().expect("there are frames");
    let mut stale = FrameBuilder::new();
    stale.push(0, None, Some(b"stale"), std::iter::empty());
    let place = FramePlace {
        incarnation: header.incarnation ^ 1,
        base_offset: header.next_offset(),
        durable_upto: header.next_offset(),
        commit: header.commit + 1,
    };
    bytes.truncate(last + header.frame_len());
    bytes.extend_from_slice(stale.finish(place).1);
    bench.disk.write_file(SEGMENT, &bytes);
    let engine = bench.open();
    let error = bench.read_error(&engine, 0);
    ensure!(values(&engine, 0) == sent && error.is_none(), "stale bytes were taken for data: {error:?}");
    ensure!(engine.report.damage.is_empty(), "{:?}", engine.report);
    Ok(())
}

/// A frame whose checksums hold, and whose body decompresses to less than it says.
fn a_lying_length_is_damage() -> Verdict {
    for compression in [Compression::Lz4, Compression::Zstd { level: 3 }] {
        let bench = Bench::new(15);
        let engine = bench.open();
        let topic = settings(1, Durability::Sync).compression(compression);
        engine.create_topic(TOPIC, topic).map_err(|error| error.to_string())?;
        let first = bench.put(&engine, 0, "first").map_err(|error| error.to_string())?;
        bench.put(&engine, 0, &"second ".repeat(100)).map_err(|error| error.to_string())?;
        kill(&bench, engine);
        let mut bytes = bench.disk.read_file(SEGMENT);
        let (at, mut header) = frames(&bytes)[1];
        ensure!(header.compression != Method::Plain, "{compression}: it is not compressed");
        let (front, body) = bytes[at..at + header.frame_len()].split_at_mut(FRAME_HEADER_BYTES);
        body[0] = body[0].wrapping_add(1);
        header.body_crc = crc32fast::hash(body);
        header.encode_into(front.first_chunk_mut().expect("a whole header"));
        bench.disk.write_file(SEGMENT, &bytes);
        let engine = bench.open();
        let error = bench.read_error(&engine, 0).ok_or("a length that does not hold was believed")?;
        ensure!(error.kind() == ErrorKind::Corrupt && damaged_offsets(&error) == (TOPIC, 0, Some(1)), "{error:?}");
        ensure!(values(&engine, 0) == [first], "what lies before the damage must be readable");
    }
    Ok(())
}

#[test]
fn a_body_that_decompresses_to_another_length_is_damage() {
    a_lying_length_is_damage().unwrap();
}

#[test]
fn stale_bytes_behind_the_end_are_no_data() {
    stale_frames_are_no_data().unwrap();
}

/// A unit whose records have no room fails as a whole before anything of it is in the journal.
fn full_disk_fails_a_unit_and_heals() -> Verdict {
    let bench = Bench::new(2);
    let engine = bench.open();
    bench.create(&engine, 2, Durability::Sync);
    // The journal has room enough after these.
    let large = "x".repeat(6000);
    for text in [&large, "first"] {
        bench.unit(&engine, &[0, 1], text).map_err(|error| error.to_string())?;
    }
    engine.create_topic("fresh", settings(2, Durability::Sync)).map_err(|error| error.to_string())?;
    bench.disk.set_capacity(Some(bench.disk.used()));
    let fresh = [("fresh", 0), ("fresh", 1)];
    match unit(&engine, &fresh, &large) {
        Err(error) => ensure!(error.kind() == ErrorKind::StorageFull, "{error:?}"),
        Ok(()) => return Err("a unit was acknowledged that has no room".to_owned()),
    }
    bench.disk.set_capacity(None);
    unit(&engine, &fresh, &large).map_err(|error| format!("it does not heal: {error}"))?;
    bench.unit(&engine, &[0, 1], "second").map_err(|error| format!("it does not heal: {error}"))?;
    for partition in [0, 1] {
        ensure!(values(&engine, partition) == [&large, "first", "second"], "partition {partition}");
    }
    Ok(())
}

#[test]
fn a_full_disk_fails_a_unit_whole_and_heals_without_reopening() {
    full_disk_fails_a_unit_and_heals().unwrap();
}

/// Two commits in one write of the journal, of which half gets there: the first of them whole.
fn refused_commits_stay_away() -> Verdict {
    let bench = Bench::new(14);
    let engine = bench.open();
    bench.create(&engine, 2, Durability::Sync);
    bench.unit(&engine, &[0, 1], "first").map_err(|error| error.to_string())?;
    let topic = engine.topic(TOPIC).map_err(|error| error.to_string())?;
    let mut groups = Vec::new();
    for text in ["refused", "refused as well, and longer than the one before"] {
        let frames = topic.partitions().iter().map(|partition| (Arc::clone(partition), builder(text))).collect();
        groups.push(engine.committer.enqueue_unit(frames, Leader::Caller).map_err(|_| "a unit was not taken")?);
    }
    let next = bench.disk.calls();
    bench.disk.fail_at(next, SimFault::ShortWrite);
    bench.disk.fail_at(next + 1, SimFault::Eio);
    engine.lead();
    for group in groups {
        let outcome = group.outcome().ok_or("a unit was not answered")?;
        ensure!(outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Io), "{outcome:?}");
    }
    kill(&bench, engine);
    let engine = bench.open();
    for partition in [0, 1] {
        ensure!(
            values(&engine, partition) == ["first"],
            "what was refused has come back: {:?}",
            values(&engine, partition)
        );
    }
    Ok(())
}

#[test]
fn what_a_failed_write_left_in_the_journal_does_not_come_back() {
    refused_commits_stay_away().unwrap();
}

/// A sync of the manifest fails in the first open, the next open crashes: one slot must be whole all the same.
fn failed_manifest_syncs_leave_a_slot() -> Verdict {
    for case in 0..3000 {
        let copy = Bench::new(case);
        copy.disk.fail_at(10 + case % 12, SimFault::FsyncDrop);
        drop(copy.try_open());
        copy.disk.clear_faults();
        copy.disk.crash_at(copy.disk.calls() + case / 12 % 14);
        let second = copy.try_open();
        copy.disk.power_loss();
        drop(second);
        if let Err(error) = copy.try_open() {
            return Err(format!("case {case}: {error:?}"));
        }
    }
    Ok(())
}

#[test]
fn a_slot_of_the_manifest_is_always_whole() {
    failed_manifest_syncs_leave_a_slot().unwrap();
}

/// The newest slot of the manifest counted a journal file and is gone. The file says itself that it was counted.
fn journal_files_with_entries_count() -> Verdict {
    for seed in 0..40 {
        let bench = Bench::new(seed);
        let engine = bench.open();
        bench.create(&engine, 2, Durability::Sync);
        engine.close().map_err(|error| error.to_string())?;
        drop(engine);
        let engine = bench.open();
        bench.unit(&engine, &[0, 1], "acknowledged").map_err(|error| error.to_string())?;
        bench.disk.power_loss();
        drop(engine);
        let manifest = "/data/log/MANIFEST";
        let serial = |slot: usize| bench.disk.read_file(manifest)[slot * 4096 + 16];
        let newest = u64::from(serial(1) > serial(0));
        bench.disk.flip_bit(manifest, newest * 4096 + 30, 2);
        let engine = bench.open();
        for partition in [0, 1] {
            ensure!(values(&engine, partition) == ["acknowledged"], "a commit is lost, seed {seed}");
        }
    }
    Ok(())
}

#[test]
fn a_journal_file_with_entries_counts_whatever_the_manifest_says() {
    journal_files_with_entries_count().unwrap();
}

#[test]
fn a_log_is_open_once() {
    let bench = Bench::new(3);
    let engine = bench.open();
    let second = bench.try_open().expect_err("it is open already");
    assert_eq!(second.kind(), ErrorKind::Locked, "{second:?}");
    engine.close().unwrap();
    // A lock file that a process left behind locks nothing.
    let engine = bench.open();
    kill(&bench, engine);
    drop(bench.open());
}

#[test]
fn foreign_directories_and_lost_and_found_are_left_alone() {
    let bench = Bench::new(4);
    let engine = bench.open();
    bench.create(&engine, 1, Durability::Sync);
    bench.put(&engine, 0, "mine").unwrap();
    engine.close().unwrap();
    for dir in ["lost+found", "topics/lost+found", "topics/Not A Topic", "topics/somebody"] {
        bench.disk.create_dir(&Path::new("/data/log").join(dir)).unwrap();
    }
    bench.disk.write_file("/data/log/topics/somebody/letter.txt", b"hello");
    bench.disk.write_file("/data/log/topics/orders/0/letter.txt", b"hello");
    let engine = bench.open();
    assert_eq!(values(&engine, 0), ["mine"]);
    assert_eq!(engine.topics().len(), 1);
    engine.close().unwrap();
    assert_eq!(bench.disk.read_file("/data/log/topics/somebody/letter.txt"), b"hello");
    assert_eq!(bench.disk.read_file("/data/log/topics/orders/0/letter.txt"), b"hello");
}

#[test]
fn a_directory_of_other_files_is_no_place_for_a_log() {
    let bench = Bench::new(5);
    bench.disk.create_dir(Path::new("/data")).unwrap();
    bench.disk.create_dir(Path::new("/data/log")).unwrap();
    bench.disk.write_file("/data/log/thesis.tex", b"precious");
    let error = bench.try_open().expect_err("it is somebody's");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert_eq!(bench.disk.paths(), ["/data/log/thesis.tex"], "nothing was created");
}

#[test]
fn a_poisoned_partition_serves_what_is_durable_and_the_others_go_on() {
    let bench = Bench::new(6);
    let engine = bench.open();
    bench.create(&engine, 2, Durability::Sync);
    bench.put(&engine, 0, "durable").unwrap();
    bench.disk.fail_at(bench.disk.calls(), SimFault::FsyncDrop);
    for _ in 0..2 {
        let error = bench.put(&engine, 0, "unknown").expect_err("the sync fails, and is not tried again");
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error:?}");
    }
    assert_eq!(values(&engine, 0), ["durable"]);
    bench.put(&engine, 1, "elsewhere").unwrap();
    assert_eq!(engine.close().expect_err("it is not clean").kind(), ErrorKind::Poisoned);
    drop(engine);
    let engine = bench.open();
    assert!(!engine.report.clean);
    assert_eq!(values(&engine, 0)[0], "durable");
    assert_eq!(values(&engine, 1), ["elsewhere"]);
    bench.put(&engine, 0, "again").unwrap();
}

#[test]
fn a_poisoned_journal_stops_synced_topics_and_loses_no_commit() {
    let bench = Bench::new(7);
    let engine = bench.open();
    bench.create(&engine, 2, Durability::Sync);
    bench.unit(&engine, &[0, 1], "first").unwrap();
    bench.disk.fail_at(bench.disk.calls(), SimFault::FsyncDrop);
    let error = bench.unit(&engine, &[0, 1], "unknown").expect_err("the sync fails");
    assert_eq!(error.kind(), ErrorKind::Poisoned, "{error:?}");
    assert_eq!(bench.put(&engine, 0, "more").expect_err("it is poisoned").kind(), ErrorKind::Poisoned);
    assert_eq!(values(&engine, 0), ["first"]);
    kill(&bench, engine);
    bench.disk.power_loss();
    let engine = bench.open();
    let (a, b) = (values(&engine, 0), values(&engine, 1));
    assert_eq!(a, b);
    assert!(a == ["first"] || a == ["first", "unknown"], "{a:?}");
    bench.unit(&engine, &[0, 1], "second").unwrap();
}

#[test]
fn a_segment_that_is_missing_in_the_middle_is_damage() {
    let bench = Bench::new(8);
    let engine = bench.open();
    bench.create(&engine, 2, Durability::Sync);
    let text = "y".repeat(900);
    let sent: Vec<_> = (0..20).map(|_| bench.put(&engine, 0, &text).unwrap()).collect();
    bench.put(&engine, 1, "elsewhere").unwrap();
    kill(&bench, engine);
    let paths = bench.segments(0);
    assert!(paths.len() > 3, "{paths:?}");
    bench.disk.remove_file(Path::new(&paths[1])).unwrap();
    let engine = bench.open();
    let readable = values(&engine, 0);
    assert!(readable.len() < sent.len() && readable[..] == sent[..readable.len()], "{}", readable.len());
    let error = bench.read_error(&engine, 0).expect("the gap is an error, not an end");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert_eq!(damaged_offsets(&error), (TOPIC, 0, Some(readable.len() as u64)));
    assert_eq!(values(&engine, 1), ["elsewhere"]);
}

#[test]
fn either_slot_of_the_manifest_is_enough() {
    for slot in [0, 4096] {
        let (bench, sent) = five_records();
        let manifest = "/data/log/MANIFEST";
        bench.disk.flip_bit(manifest, slot + 20, 1);
        let engine = bench.open();
        assert_eq!(values(&engine, 0), sent, "slot {slot}");
        engine.close().unwrap();
        bench.disk.flip_bit(manifest, 20, 1);
        bench.disk.flip_bit(manifest, 4096 + 20, 1);
        assert_eq!(bench.try_open().expect_err("nothing is left of it").kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_checkpoint_that_is_missing_damaged_or_old_loses_nothing() {
    let checkpoint = "/data/log/CHECKPOINT";
    for what in 0..3 {
        let bench = Bench::new(9);
        let engine = bench.open();
        bench.create(&engine, 2, Durability::Sync);
        bench.unit(&engine, &[0, 1], "a").unwrap();
        engine.checkpoint().unwrap();
        let old = bench.disk.read_file(checkpoint);
        bench.unit(&engine, &[0, 1], "b").unwrap();
        engine.checkpoint().unwrap();
        bench.unit(&engine, &[0, 1], "c").unwrap();
        kill(&bench, engine);
        match what {
            0 => bench.disk.remove_file(Path::new(checkpoint)).unwrap(),
            1 => bench.disk.flip_bit(checkpoint, 50, 3),
            _ => bench.disk.write_file(checkpoint, &old),
        }
        let engine = bench.open();
        assert_eq!(
            (values(&engine, 0), values(&engine, 1)),
            (vec!["a".into(), "b".into(), "c".into()], vec!["a".into(), "b".into(), "c".into()]),
            "{what}"
        );
        // It is no loss, and no secret either.
        let [damage] = engine.report.damage.as_slice() else { panic!("{:?}", engine.report.damage) };
        assert_eq!(damage.corruption().map(|at| at.file.as_str()), Some("CHECKPOINT"), "{damage}");
        engine.close().unwrap();
        assert!(bench.open().report.damage.is_empty(), "there is another one now");
    }
}

#[test]
fn the_journal_heals_a_damaged_partition_file() {
    let bench = Bench::new(10);
    let engine = bench.open();
    bench.create(&engine, 2, Durability::Sync);
    for text in ["a", "b", "c"] {
        bench.unit(&engine, &[0, 1], text).unwrap();
    }
    engine.do_upkeep(std::time::Duration::MAX);
    kill(&bench, engine);
    let (at, _) = frames(&bench.disk.read_file(SEGMENT))[1];
    bench.disk.flip_bit(SEGMENT, (at + FRAME_HEADER_BYTES) as u64, 0);
    let engine = bench.open();
    assert_eq!(values(&engine, 0), ["a", "b", "c"]);
    assert_eq!(engine.report.journal_frames_restored, 1);
    assert!(engine.report.damage.is_empty(), "{:?}", engine.report.damage);
}

#[test]
fn frames_are_kept_aside_when_their_segment_is_missing() {
    let bench = Bench::new(11);
    let engine = bench.open();
    bench.create(&engine, 2, Durability::Sync);
    bench.unit(&engine, &[0, 1], "a").unwrap();
    kill(&bench, engine);
    bench.disk.remove_file(Path::new(SEGMENT)).unwrap();
    let engine = bench.open();
    assert!(engine.report.damage.iter().any(|error| error.kind() == ErrorKind::Corrupt), "{:?}", engine.report);
    let kept = bench.disk.paths().into_iter().filter(|path| path.ends_with(".journaled")).count();
    assert_eq!(kept, 1, "{:?}", bench.disk.paths());
    assert_eq!(values(&engine, 1), ["a"]);
    let error = bench.put(&engine, 0, "more").expect_err("acknowledged records are missing before it");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[test]
fn damage_after_a_clean_close_is_found_even_in_the_last_frame() {
    let bench = Bench::new(12);
    let engine = bench.open();
    bench.create(&engine, 1, Durability::Sync);
    let sent = bench.put(&engine, 0, "only").unwrap();
    engine.close().unwrap();
    let (at, _) = frames(&bench.disk.read_file(SEGMENT))[0];
    bench.disk.flip_bit(SEGMENT, (at + FRAME_HEADER_BYTES) as u64, 0);
    let engine = bench.open();
    let error = bench.read_error(&engine, 0).or_else(|| engine.report.damage.first().cloned()).expect("it is found");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(!values(&engine, 0).contains(&sent));
}

#[test]
fn index_files_are_never_trusted() {
    let build = || {
        let bench = Bench::new(13);
        let engine = bench.open();
        bench.create(&engine, 1, Durability::Sync);
        let text = "z".repeat(700);
        let sent: Vec<_> = (0..30).map(|_| bench.put(&engine, 0, &text).unwrap()).collect();
        engine.do_upkeep(std::time::Duration::MAX);
        engine.close().unwrap();
        (bench, sent)
    };
    let (bench, _) = build();
    let indexes: Vec<_> = bench.disk.paths().into_iter().filter(|path| path.ends_with(".index")).collect();
    assert!(indexes.len() > 2, "{indexes:?}");
    for what in 0..5 {
        let (bench, sent) = build();
        let other = bench.disk.read_file(&indexes[1]);
        for index in &indexes {
            match what {
                0 => bench.disk.remove_file(Path::new(index)).unwrap(),
                1 => bench.disk.write_file(index, b"rubbish"),
                2 => bench.disk.write_file(index, &other),
                3 => bench.disk.flip_bit(index, 40, 2),
                _ => bench.disk.truncate(index, 33),
            }
        }
        bench.disk.write_file("/data/log/topics/orders/0/00000000000000099999.index", b"an orphan");
        let engine = bench.open();
        for offset in 0..sent.len() as u64 {
            assert_eq!(bench.read_from(&engine, 0, offset), sent[offset as usize..], "{what} at {offset}");
        }
        assert!(!bench.disk.paths().iter().any(|path| path.contains("99999")), "the orphan is removed");
    }
}

#[test]
fn a_file_opened_by_a_dead_process_stays_dead() {
    let (bench, _) = five_records();
    let mount: Arc<dyn Storage> = bench.disk.mount();
    let file = mount.open(Path::new(SEGMENT), OpenMode::ReadWrite).unwrap();
    bench.disk.kill();
    assert!(file.sync_data().is_err());
}
