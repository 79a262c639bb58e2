//! What the system is really asked for: a trace of the system calls shows that every acknowledgement comes after a successful
//! `fdatasync` of the file that got the record's bytes, and that one is enough.
//!
//! Needs Linux and strace. Without them the test says so and passes; in CI (`CI=true`) that is a failure.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails where it must")]

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use annals::{Batch, Durability, Log, Record, TopicSettings};

const CHILD_DIR: &str = "ANNALS_SYSCALLS_CHILD_DIR";
const TEST: &str = "an_acknowledgement_follows_the_sync_of_what_it_is_about";
const ACKS: &str = "acks";
const ROUNDS: usize = 40;
const PARTITIONS: u32 = 3;

#[test]
fn an_acknowledgement_follows_the_sync_of_what_it_is_about() {
    // The test runs itself as the child.
    if let Ok(dir) = std::env::var(CHILD_DIR) {
        return append(Path::new(&dir));
    }
    if !strace_works() {
        let why = "strace is not there or may not trace (install it; a container needs the capability SYS_PTRACE)";
        assert!(std::env::var("CI").is_err(), "{why}");
        println!("SKIPPED: {why}");
        eprintln!("SKIPPED: {why}");
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let calls = parse(&trace(dir.path()));
    for round in 0..ROUNDS {
        assert_eq!(synced_before(&calls, &lone(round), &lone(round)), Ok(()));
        for partition in 0..PARTITIONS {
            assert_eq!(synced_before(&calls, &part(round, partition), &all(round)), Ok(()));
        }
        // The counter-proof: nothing is synced for these, and the trace would show it if it were so for the others.
        assert!(synced_before(&calls, &relaxed(round), &relaxed(round)).is_err());
    }
    for round in 1..ROUNDS {
        one_sync_between(&calls, &lone(round - 1), &lone(round), &lone(round));
        one_sync_between(&calls, &all(round - 1), &all(round), &part(round, 0));
    }
}

fn lone(round: usize) -> String {
    format!("lone-{round:04};")
}

fn all(round: usize) -> String {
    format!("all-{round:04};")
}

fn part(round: usize, partition: u32) -> String {
    format!("part-{round:04}-{partition};")
}

fn relaxed(round: usize) -> String {
    format!("relaxed-{round:04};")
}

/// The child: a lone producer that writes each acknowledgement into a file, so that the trace has it.
fn append(dir: &Path) {
    let mut acks = File::create(dir.join(ACKS)).unwrap();
    let log = Log::blocking_open(dir.join("log")).unwrap();
    let create = |name: &str, partitions, durability| {
        let settings = TopicSettings::default().partitions(partitions).durability(durability);
        log.blocking_create_topic(annals::TopicDef::<String, annals::Raw>::named(name), settings).unwrap()
    };
    let one = create("one", 1, Durability::Sync);
    let several = create("several", PARTITIONS, Durability::Sync);
    let os = create("os", 1, Durability::Os);
    for round in 0..ROUNDS {
        one.blocking_produce(Record::new(lone(round))).unwrap();
        acks.write_all(lone(round).as_bytes()).unwrap();
    }
    for round in 0..ROUNDS {
        let mut batch = Batch::new();
        for partition in 0..PARTITIONS {
            batch.add(&several, Record::new(part(round, partition)).partition(partition)).unwrap();
        }
        log.blocking_produce_all(batch).unwrap();
        acks.write_all(all(round).as_bytes()).unwrap();
    }
    for round in 0..ROUNDS {
        os.blocking_produce(Record::new(relaxed(round))).unwrap();
        acks.write_all(relaxed(round).as_bytes()).unwrap();
    }
    log.blocking_close().unwrap();
}

fn strace_works() -> bool {
    let mut tried = Command::new("strace");
    tried.args(["-f", "-y", "-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    tried.status().is_ok_and(|status| status.success())
}

/// Runs the child under strace; `-y` shows the path of every descriptor.
fn trace(dir: &Path) -> String {
    let to = dir.join("trace");
    let traced = Command::new("strace")
        .args(["-f", "-y", "-s", "65536", "-e", "signal=none"])
        .args([
            "-e",
            "trace=openat,write,writev,pwrite64,pwritev,pwritev2,fdatasync,fsync,sync_file_range,syncfs,msync",
        ])
        .arg("-o")
        .arg(&to)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .output()
        .unwrap();
    assert!(traced.status.success(), "{traced:?}");
    String::from_utf8_lossy(&std::fs::read(to).unwrap()).into_owned()
}

/// A system call. Lines of the trace are in order; a call that another thread interrupts has a line where it starts and one
/// where it ends.
#[derive(Debug)]
struct Call {
    thread: String,
    started: usize,
    ended: usize,
    name: String,
    /// Of the first argument, where that is a descriptor.
    path: String,
    text: String,
    result: i64,
}

impl Call {
    fn is_write(&self) -> bool {
        self.name.contains("write") && self.result > 0
    }

    fn is_sync(&self) -> bool {
        self.name.contains("sync") && self.result == 0
    }
}

fn parse(trace: &str) -> Vec<Call> {
    let mut unfinished = HashMap::new();
    let mut calls = Vec::new();
    for (at, line) in trace.lines().enumerate() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        if let Some(begin) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread.to_owned(), (at, begin.to_owned()));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, end) = resumed.split_once("resumed>").unwrap();
            let (started, begin): (usize, String) = unfinished.remove(thread).unwrap();
            calls.extend(call(thread, started, at, &(begin + end)));
        } else {
            calls.extend(call(thread, at, at, rest));
        }
    }
    calls.sort_by_key(|call| call.ended);
    calls
}

/// `None` for a line that is no call, as the one about the exit.
fn call(thread: &str, started: usize, ended: usize, text: &str) -> Option<Call> {
    let (before, result) = text.rsplit_once(" = ")?;
    let (name, arguments) = before.split_once('(')?;
    let descriptor = arguments.split([',', ')']).next()?;
    let path = descriptor.split_once('<').map_or("", |(_, path)| path.trim_end().trim_end_matches('>'));
    let result = result.split(['<', ' ']).next()?.parse().ok()?;
    let (thread, name, path, text) = (thread.to_owned(), name.to_owned(), path.to_owned(), arguments.to_owned());
    Some(Call { thread, started, ended, name, path, text, result })
}

fn acknowledgement<'a>(calls: &'a [Call], ack: &str) -> &'a Call {
    let mut found = calls.iter().filter(|call| call.is_write() && call.path.ends_with(ACKS) && call.text.contains(ack));
    let call = found.next().unwrap_or_else(|| panic!("{ack} is not in the trace"));
    assert!(found.next().is_none(), "{ack} is there once");
    call
}

/// Whether a file that got the bytes was synced after that, before the acknowledgement began.
fn synced_before(calls: &[Call], bytes: &str, ack: &str) -> Result<(), String> {
    let ack = acknowledgement(calls, ack);
    let earlier = || calls.iter().filter(|call| call.ended < ack.started);
    let writes: Vec<&Call> =
        earlier().filter(|call| call.is_write() && !call.path.ends_with(ACKS) && call.text.contains(bytes)).collect();
    if writes.is_empty() {
        return Err(format!("{bytes} was acknowledged, and written nowhere before"));
    }
    let is_synced =
        |write: &Call| earlier().any(|call| call.is_sync() && call.path == write.path && call.started > write.ended);
    if writes.iter().any(|write| is_synced(write)) {
        return Ok(());
    }
    let paths: Vec<&str> = writes.iter().map(|write| &*write.path).collect();
    Err(format!("{bytes} was acknowledged, and none of {paths:?} was synced after it was written and before that"))
}

/// A lone producer pays one sync for each acknowledgement, and it is an `fdatasync`. Upkeep on a thread of its own syncs what it
/// does, and keeps nobody waiting: so what counts is the thread that wrote the bytes.
fn one_sync_between(calls: &[Call], ack: &str, next: &str, bytes: &str) {
    let (from, to) = (acknowledgement(calls, ack).ended, acknowledgement(calls, next).started);
    let between = || calls.iter().filter(|call| call.ended > from && call.started < to);
    let write = between().find(|call| call.is_write() && !call.path.ends_with(ACKS) && call.text.contains(bytes));
    let write = write.unwrap_or_else(|| panic!("{bytes} is not written between {ack} and {next}"));
    let syncs: Vec<_> = between()
        .filter(|call| call.name.contains("sync") && call.thread == write.thread)
        .map(|call| (&*call.name, &*call.path))
        .collect();
    assert_eq!(syncs, [("fdatasync", &*write.path)], "between {ack} and {next}");
}
