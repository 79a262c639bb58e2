//! The command `annals` as a person uses it: the built binary, its output, its exit codes.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails where it must, on the real clock")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use annals::{Log, Raw, TopicDef, TopicSettings};
use bytes::Bytes;
use serde_json::Value;

#[path = "cli/dead_letters.rs"]
mod dead_letters;
#[path = "cli/groups.rs"]
mod groups;
#[path = "cli/mirror.rs"]
mod mirror;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/sample.ndjson");
const SAMPLE_FIELDS: [&str; 6] = ["--key", "key", "--time", "time", "--type", "type"];

/// A directory for a log, and the command on it.
struct Annals {
    dir: tempfile::TempDir,
}

/// What a command has answered.
#[derive(Debug)]
struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Answer {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!((self.code, &*self.err), (0, ""), "{}", self.out);
        self.out
    }

    /// The exit code with one line on stderr, which says this.
    #[track_caller]
    fn fails(self, code: i32, saying: &str) -> String {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        let last = self.err.lines().last().unwrap_or_default();
        assert!(
            self.err.contains(saying) && (last.starts_with("annals: ") || code == 2),
            "{:?} is not in {:?}",
            saying,
            self.err
        );
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self.out
    }
}

impl Annals {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// With the sample in the topic `orders` of two partitions.
    fn with_sample() -> Self {
        let annals = Self::new();
        annals.run(&["create", "orders", "--partitions", "2"]).ok();
        annals.run(&[&["import", "orders", SAMPLE][..], &SAMPLE_FIELDS].concat()).ok();
        annals
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_annals"));
        command.args(args).env("ANNALS_DIR", self.path()).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Answer {
        answer(self.command(args))
    }

    fn run_with_input(&self, args: &[&str], input: &[u8]) -> Answer {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // Whoever stops reading early closes the pipe.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        text(&output)
    }

    fn json(&self, args: &[&str]) -> Vec<Value> {
        let out = self.run(&[args, &["--format", "json"]].concat()).ok();
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut found = files(&self.path());
        found.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        found
    }
}

fn answer(mut command: Command) -> Answer {
    text(&command.output().unwrap())
}

fn text(output: &std::process::Output) -> Answer {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Answer { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files(dir).into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// Waits until something holds; fails rather than for ever.
#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_first_session() {
    let annals = Annals::new();
    assert_eq!(annals.run(&["create", "orders", "--partitions", "2"]).ok(), "topic orders is there\n");
    // The same again is no error; other settings are.
    annals.run(&["create", "orders", "--partitions", "2"]).ok();
    annals.run(&["create", "orders", "--partitions", "3"]).fails(6, "exists with other settings");
    let imported = annals.run(&[&["import", "orders", SAMPLE][..], &SAMPLE_FIELDS].concat()).ok();
    assert!(imported.starts_with("266 records of ") && imported.contains("are written to orders"), "{imported}");
    let topics = annals.run(&["topics"]).ok();
    assert!(topics.contains("orders           2      266"), "{topics}");
    let described = annals.run(&["describe", "orders"]).ok();
    assert!(
        described.contains("durability          sync") && described.contains("record_bytes_max    1.0 MiB"),
        "{described}"
    );
    assert_eq!(annals.run(&["tail", "orders"]).ok().lines().count(), 10);
    assert_eq!(annals.run(&["tail", "-n", "3"]).ok().lines().count(), 3);
    let stats = annals.run(&["stats"]).ok();
    assert!(stats.contains("266") && stats.contains("1887-05-02 09:15:00") || stats.contains("2024"), "{stats}");
    let verified = annals.run(&["verify"]).ok();
    assert!(verified.contains("266 records") && verified.ends_with("ok\n"), "{verified}");
    assert_eq!(annals.run(&["repair"]).ok(), "nothing is damaged\n");
    annals.run(&["delete", "orders"]).fails(2, "add --yes");
    assert_eq!(annals.run(&["delete", "orders", "--yes"]).ok(), "topic orders is deleted, with 266 records\n");
    annals.run(&["tail", "orders"]).fails(5, "there is no topic \"orders\"");
}

#[test]
fn settings_are_taken_as_they_are_written() {
    let annals = Annals::new();
    let settings = [
        "create",
        "clicks",
        "--durability",
        "interval 250ms",
        "--compression",
        "zstd 3",
        "--segment-size",
        "16MiB",
        "--record-size",
        "64 KiB",
        "--retention-age",
        "7d",
        "--retention-size",
        "1.5GiB",
    ];
    annals.run(&settings).ok();
    let described = &annals.json(&["describe", "clicks"])[0]["settings"];
    assert_eq!(described["durability"], "interval 250ms");
    assert_eq!(described["compression"], "zstd 3");
    assert_eq!(described["segment_bytes_max"], 16 << 20);
    assert_eq!(described["record_bytes_max"], 64 << 10);
    assert_eq!(described["retention_age_max"], "604800s");
    assert_eq!(described["retention_bytes_max"], 3_u64 << 29);
    for (option, value) in [
        ("--partitions", "0"),
        ("--partitions", "-1"),
        ("--durability", "always"),
        ("--durability", "interval 2h"),
        ("--compression", "gzip"),
        ("--segment-size", "1 banana"),
        ("--segment-size", "1KiB"),
        ("--record-size", "5GiB"),
        ("--retention-age", "soon"),
    ] {
        annals.run(&["create", "other", &format!("{option}={value}")]).fails(2, "");
    }
    for name in ["a/b", "", ".hidden", "__offsets"] {
        annals.run(&["create", name]).fails(2, "topic name");
    }
}

#[test]
fn settings_can_be_altered() {
    let annals = Annals::with_sample();
    annals
        .run(&["alter", "orders", "--retention-age", "500000d", "--compression", "lz4", "--partitions", "3"])
        .fails(2, "retention_age_max");
    annals.run(&["alter", "orders", "--retention-age", "30000d", "--compression", "lz4", "--partitions", "3"]).ok();
    let settings = &annals.json(&["describe", "orders"])[0]["settings"];
    assert_eq!((&settings["partitions"], &settings["compression"]), (&3.into(), &"lz4".into()));
    assert_eq!(settings["retention_age_max"], "2592000000s");
    annals.run(&["alter", "orders", "--retention-age", "all"]).ok();
    let described = &annals.json(&["describe", "orders"])[0];
    assert_eq!(
        (&described["settings"]["retention_age_max"], &described["settings"]["compression"]),
        (&Value::Null, &"lz4".into())
    );
    annals.run(&["alter", "orders", "--retention-age", "all"]).fails(2, "has these settings already");
    annals.run(&["alter", "orders", "--partitions", "2"]).fails(2, "can only grow");
    annals.run(&["alter", "orders", "--durability", "os"]).fails(2, "cannot get");
    annals.run(&["alter", "none", "--compression", "lz4"]).fails(5, "no topic");
    annals.run(&["alter", "orders", "--retention-size", "some"]).fails(2, "or `all`");
}

#[test]
fn every_record_can_be_shown_in_every_format() {
    let annals = Annals::new();
    annals.run(&["create", "t"]).ok();
    let written = annals
        .run(&[
            "produce",
            "t",
            "line 1\nline\t2",
            "-k",
            "key",
            "--type",
            "made",
            "--header",
            "h=1",
            "--header",
            "n",
            "--time",
            "2026-01-31T12:00:00Z",
        ])
        .ok();
    assert!(written.starts_with("t/0@0 commit ") && written.ends_with(", sync\n"), "{written}");
    annals.run(&["produce", "t", "--tombstone", "--key", "gone", "--time", "2026-02-01"]).ok();
    let log = Log::blocking_open(annals.path()).unwrap();
    let value = Bytes::from_static(b"\xff\x00\x1b[2J");
    log.raw_topic("t").unwrap().blocking_produce(annals::Record::new(value)).unwrap();
    log.blocking_close().unwrap();

    let text = annals.run(&["cat", "t"]).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], r"2026-01-31T12:00:00.000000Z t/0@0 key {event_type=made, h=1, n} line 1\nline\t2");
    assert_eq!(lines[1], "2026-02-01T00:00:00.000000Z t/0@1 gone (tombstone)");
    assert!(lines[2].ends_with(" t/0@2 base64:/wAbWzJK"), "{}", lines[2]);
    let json = annals.json(&["cat", "t"]);
    assert_eq!(json[0]["key"], "key");
    assert_eq!(json[0]["value"], "line 1\nline\t2");
    assert_eq!(json[0]["headers"][2], serde_json::json!({"name": "n", "value": null}));
    assert_eq!(json[0]["time"], "2026-01-31T12:00:00.000000Z");
    assert_eq!((&json[0]["topic"], &json[0]["partition"], &json[0]["offset"]), (&"t".into(), &0.into(), &0.into()));
    assert_eq!((&json[1]["value"], &json[1]["key"]), (&Value::Null, &"gone".into()));
    assert_eq!((&json[2]["value"], &json[2]["key"]), (&serde_json::json!({"base64": "/wAbWzJK"}), &Value::Null));
    let hex = annals.run(&["cat", "t", "--format", "hex"]).ok();
    assert!(hex.contains("value, 6 bytes\n    000000  ff 00 1b 5b 32 4a") && hex.contains("|...[2J|"), "{hex}");
    assert!(!hex.contains('\x1b') && !text.contains('\x1b'));
    let raw = annals.command(&["cat", "t", "--format", "raw"]).output().unwrap().stdout;
    assert_eq!(raw, b"line 1\nline\t2\n\n\xff\x00\x1b[2J\n");
}

#[test]
fn lines_of_standard_input_become_records() {
    let annals = Annals::new();
    annals.run(&["create", "t", "--partitions", "3"]).ok();
    let answer =
        annals.run_with_input(&["produce", "t", "--key-separator", "::", "--type", "x"], b"a::1\r\nb::2::3\nc::");
    assert_eq!(answer.ok(), "3 records are written to t\n");
    let mut pairs: Vec<_> =
        annals.json(&["cat", "t"]).iter().map(|record| (record["key"].clone(), record["value"].clone())).collect();
    pairs.sort_by_key(|(key, _)| key.to_string());
    assert_eq!(pairs, [("a", "1"), ("b", "2::3"), ("c", "")].map(|(key, value)| (key.into(), value.into())));
    // What comes before a line that cannot be taken is written.
    let answer = annals.run_with_input(&["produce", "t", "--key-separator", ":"], b"d:4\nnothing\ne:5\n");
    answer.fails(2, "line 2 of standard input has no separator");
    assert_eq!(annals.json(&["cat", "t"]).len(), 4);
    let answer = annals.run_with_input(&["produce", "t"], &[vec![b'x'; 2 << 20], b"\n".to_vec()].concat());
    answer.fails(2, "line 1 of standard input");
    // Large ones that fit go one by one.
    annals.run(&["create", "large", "--record-size", "7MiB"]).ok();
    let line = [vec![b'x'; 6 << 20], b"\n".to_vec()].concat();
    annals.run_with_input(&["produce", "large"], &[b"small\n".to_vec(), line.clone(), line].concat()).ok();
    assert_eq!(annals.run(&["cat", "large", "--format", "raw"]).ok().len(), 6 + 2 * ((6 << 20) + 1));
    annals.run(&["produce", "t", "value", "--partition", "7"]).fails(2, "asks for partition 7");
    annals.run(&["produce", "none", "value"]).fails(5, "no topic");
    annals.run(&["produce", "t", "--tombstone"]).fails(2, "--key");
}

#[test]
fn reading_begins_anywhere() {
    let annals = Annals::with_sample();
    let offsets = |args: &[&str]| -> Vec<u64> {
        annals
            .json(&[&["cat", "orders", "--partition", "0"], args].concat())
            .iter()
            .map(|it| it["offset"].as_u64().unwrap())
            .collect()
    };
    let all = offsets(&[]);
    let end = all.len() as u64;
    assert_eq!(all, (0..end).collect::<Vec<_>>());
    assert_eq!(offsets(&["--from", "earliest"]), all);
    assert_eq!(offsets(&["--from", "latest"]), [0; 0]);
    assert_eq!(offsets(&["--from", "offset:5", "--max", "2"]), [5, 6]);
    assert_eq!(offsets(&["--from", &format!("offset:{end}")]), [0; 0]);
    assert_eq!(offsets(&["--from", "last:3"]), [end - 3, end - 2, end - 1]);
    assert_eq!(offsets(&["--max", "0"]), [0; 0]);
    let record = &annals.json(&["cat", "orders", "--partition", "0", "--from", "offset:50", "--max", "1"])[0];
    let time = record["time"].as_str().unwrap();
    let at = annals.json(&["cat", "orders", "--partition", "0", "--from", &format!("time:{time}"), "--max", "1"]);
    assert!(at[0]["time"].as_str().unwrap() >= time, "{at:?}");
    assert!(at[0]["offset"].as_u64().unwrap() <= 50, "the first of that time or later");
    assert_eq!(offsets(&["--from", "time:1s"]), [0; 0]);
    let commit = record["commit"].as_u64().unwrap();
    assert_eq!(offsets(&["--from", &format!("commit:{commit}")]), all);
    assert_eq!(offsets(&["--from", &format!("commit:{}", commit + 1)]), [0; 0]);
    // Everything in causal order; a topic that is named twice is read once.
    assert_eq!(annals.json(&["cat"]).len(), 266);
    assert_eq!(annals.json(&["cat", "orders", "orders"]).len(), 266);

    annals
        .run(&["cat", "orders", "--partition", "0", "--from", &format!("offset:{}", end + 1)])
        .fails(7, "is outside 0 to");
    annals.run(&["cat", "orders", "--from", "offset:0"]).fails(2, "an offset belongs to a single partition");
    annals.run(&["cat", "orders", "--partition", "2"]).fails(5, "no partition 2");
    annals.run(&["cat", "--partition", "0"]).fails(2, "single topic");
    annals.run(&["cat", "orders", "none"]).fails(5, "no topic \"none\"");
    for place in ["yesterday", "offset:x", "last:-1", "time:", "17"] {
        annals.run(&["cat", "orders", &format!("--from={place}")]).fails(2, "--from");
    }
}

#[test]
fn filters_choose() {
    let annals = Annals::with_sample();
    let count = |args: &[&str]| annals.json(&[&["cat", "orders"], args].concat()).len();
    let sample = fs::read_to_string(SAMPLE).unwrap();
    let with = |needle: &str| sample.lines().filter(|line| line.contains(needle)).count();
    assert_eq!(count(&["--key", "loan-0001"]), with(r#""key":"loan-0001""#));
    assert_eq!(count(&["--type", "borrowed"]), with(r#""type":"borrowed""#));
    assert_eq!(count(&["--header", "event_type=borrowed"]), with(r#""type":"borrowed""#));
    assert_eq!(count(&["--header", "import_line"]), 266);
    assert_eq!(count(&["--header", "import_line=17", "--header", "import_source=sample.ndjson"]), 1);
    assert_eq!(count(&["--header", "none"]), 0);
    let one = annals.json(&["cat", "--type", "borrowed", "--key", "loan-0002", "--max", "1"]);
    assert_eq!((one.len(), &one[0]["key"]), (1, &"loan-0002".into()));
    assert!(annals.run(&["tail", "orders", "-n", "20", "--type", "shelved"]).ok().lines().count() < 20);
    annals.run(&["cat", "orders", "--header", "=x"]).fails(2, "--header");
}

#[test]
fn records_are_found_by_their_headers() {
    let annals = Annals::with_sample();
    let types = |args: &[&str]| annals.json(&[&["cat", "orders"], args].concat());
    let borrowed = types(&["--type", "borrowed"]);
    assert!(borrowed.len() > 10);
    annals.run(&["find", "event_type", "borrowed"]).fails(2, "no topic indexes any");
    annals.run(&["alter", "orders", "--index", "event_type", "--index", "correlation_id"]).ok();
    assert_eq!(
        annals.json(&["describe", "orders"])[0]["settings"]["indexed_headers"],
        serde_json::json!(["event_type", "correlation_id"])
    );
    assert!(annals.run(&["describe", "orders"]).ok().contains("indexed_headers     event_type, correlation_id\n"));
    assert_eq!(annals.json(&["find", "event_type", "borrowed"]), borrowed);
    assert_eq!(annals.json(&["find", "event_type", "borrowed", "--topic", "orders", "--max", "3"]), borrowed[..3]);
    assert_eq!(annals.run(&["find", "event_type", "borrowed"]).ok().lines().count(), borrowed.len());
    assert_eq!(annals.run(&["find", "event_type", "-x"]).ok(), "");
    annals.run(&["create", "other", "--index", "trace"]).ok();
    annals.run(&["find", "trace", "1", "--topic", "orders"]).fails(2, "orders indexes \"event_type\"");
    annals.run(&["find", "trace", "1", "--topic", "none"]).fails(5, "no topic");
    annals.run(&["find", "span", "1"]).fails(2, "\"correlation_id\", \"event_type\", \"trace\"");
    annals.run(&["create", "bad", "--index", "a", "--index", "a"]).fails(2, "twice");
    annals.run(&["create", "bad", "--index", "a", "--no-index"]).fails(2, "cannot be used with");
    annals.run(&["alter", "orders", "--no-index"]).ok();
    annals.run(&["alter", "orders", "--no-index"]).fails(2, "has these settings already");
    assert!(!annals.run(&["describe", "orders"]).ok().contains("indexed_headers"));
    annals.run(&["find", "event_type", "borrowed"]).fails(2, "not indexed");
}

#[test]
fn what_is_wrong_is_said_in_a_line_with_its_own_exit_code() {
    let annals = Annals::new();
    for command in
        [&["topics"][..], &["cat"], &["verify"], &["repair"], &["stats"], &["describe", "t"], &["produce", "t", "v"]]
    {
        annals.run(command).fails(5, "there is no log in");
        assert!(!annals.path().exists(), "{command:?} has made something");
    }
    // Not a log: another program's directory, and a file.
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("notes.txt"), "x").unwrap();
    let dir = other.path().to_str().unwrap();
    annals.run(&["-d", dir, "create", "t"]).fails(2, "holds no log but other files");
    annals.run(&["-d", dir, "topics"]).fails(5, "there is no log in");
    annals.run(&["-d", SAMPLE, "create", "t"]).fails(2, "is not a directory");
    annals.run(&["-d", SAMPLE, "verify"]).fails(2, "is not a directory");
    annals.run(&["nonsense"]).fails(2, "nonsense");
    assert_eq!(annals.run(&[]).code, 2);

    // Open elsewhere: writers are refused, the check is not.
    let log = Log::blocking_open(annals.path()).unwrap();
    let topic = log.blocking_create_topic(TopicDef::<Bytes, Raw>::new("t"), TopicSettings::default()).unwrap();
    topic.blocking_produce(Bytes::from_static(b"value")).unwrap();
    annals.run(&["create", "u"]).fails(4, "open for writing already");
    annals.run(&["produce", "t", "value"]).fails(4, "open for writing already");
    annals.run(&["repair"]).fails(4, "is open in another process");
    assert!(annals.run(&["verify"]).ok().contains("1 records"));
    log.blocking_close().unwrap();

    annals.run(&["dump-segment", "none"]).fails(1, "cannot read none");
    annals.run(&["dump-journal", dir]).fails(1, "is a directory");
    annals.run(&["import", "t", "none.ndjson"]).fails(5, "none.ndjson: cannot be read");
    annals.run(&["import", "t", dir]).fails(2, "is a directory");
    annals.run(&["import", "none", SAMPLE]).fails(5, "no topic");
    annals.run(&["man", "nonsense"]).fails(2, "no subcommand");
}

#[cfg(unix)]
#[test]
fn a_directory_without_rights_is_no_log_to_us() {
    use std::os::unix::fs::PermissionsExt;
    let annals = Annals::with_sample();
    fs::set_permissions(annals.path(), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(annals.path()).is_ok() {
        eprintln!("skipped: root may read everything");
        return;
    }
    for command in ["topics", "verify", "repair"] {
        annals.run(&[command]).fails(1, "ermission denied");
    }
    fs::set_permissions(annals.path(), fs::Permissions::from_mode(0o700)).unwrap();
}

/// The reader goes after one line: no panic, no word, no failure.
#[test]
fn a_closed_pipe_is_the_end_and_no_error() {
    let annals = Annals::with_sample();
    let large = (0..20_000).map(|number| format!("a line with number {number}\n")).collect::<String>();
    annals.run_with_input(&["import", "orders", "--source", "numbers"], large.as_bytes()).ok();
    let segment = &annals.segments()[0];
    let all: [&[&str]; 6] = [
        &["cat", "orders"],
        &["cat", "orders", "--format", "json", "--follow"],
        &["cat", "orders", "--format", "hex"],
        &["tail", "orders", "-n", "20000"],
        &["dump-segment", segment.to_str().unwrap()],
        &["import", "--help"],
    ];
    for args in all {
        let mut child = annals.command(args).spawn().unwrap();
        let mut stdout = BufReader::with_capacity(64, child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{args:?}");
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{args:?}: {output:?}");
    }
}

#[cfg(unix)]
fn interrupt(child: &std::process::Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_following_cleanly() {
    let annals = Annals::with_sample();
    for args in [&["tail", "orders", "-n", "2", "--follow"][..], &["cat", "--follow", "--from", "last:2"]] {
        let mut child = annals.command(args).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        // Shown at once, though nothing follows.
        for _ in 0..2 {
            line.clear();
            stdout.read_line(&mut line).unwrap();
            assert!(line.contains(" orders/"), "{line}");
        }
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{output:?}");
    }
    let mut child = annals.command(&["stats", "--watch", "1h"]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // The log was closed.
    let log = Log::blocking_open(annals.path()).unwrap();
    assert!(log.recovery().clean, "{:?}", log.recovery());
}

#[test]
fn stats_are_looked_at_again() {
    let annals = Annals::with_sample();
    let looks = annals.json(&["stats", "orders", "--watch", "10ms", "--count", "3"]);
    assert_eq!(looks.len(), 3);
    assert_eq!((&looks[2]["records"], &looks[2]["partitions"]), (&266.into(), &2.into()));
    assert_eq!(looks[2]["records_per_second"], 0.0);
    assert!(looks[0]["size_bytes"].as_u64().unwrap() > 20_000);
    annals.run(&["stats", "none"]).fails(5, "no topic");
    annals.run(&["stats", "--watch", "soon"]).fails(2, "--watch");
}

/// A running application has the log open, here in this process; what only reads works beside it, and sees what it adds.
#[test]
fn whatever_only_reads_works_beside_a_running_writer() {
    let annals = Annals::with_sample();
    let log = Log::blocking_open(annals.path()).unwrap();
    let topic = log.raw_topic("orders").unwrap();
    topic.blocking_produce(Bytes::from_static(b"added beside")).unwrap();
    assert!(annals.run(&["topics"]).ok().contains("orders"));
    assert!(annals.run(&["describe", "orders"]).ok().contains("orders"));
    assert_eq!(annals.json(&["stats", "orders"])[0]["records"], 267);
    assert_eq!(annals.run(&["cat", "orders"]).ok().lines().count(), 267);
    assert!(annals.run(&["tail", "orders", "-n", "1"]).ok().contains("added beside"));
    assert!(annals.run(&["verify"]).ok().contains("267 records"));
    let segment = &annals.segments()[0];
    assert!(!annals.run(&["dump-segment", segment.to_str().unwrap()]).ok().is_empty());

    let mut child = annals.command(&["tail", "orders", "-n", "1", "--follow"]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for number in 0..20 {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let expected = if number == 0 { "added beside".to_owned() } else { format!("live {number}") };
        assert!(line.contains(&expected), "{expected} is not in {line}");
        topic.blocking_produce(Bytes::from(format!("live {}", number + 1))).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Nobody has touched what the writer writes.
    log.blocking_close().unwrap();
    let log = Log::blocking_open(annals.path()).unwrap();
    assert!(log.recovery().clean && log.recovery().damage.is_empty(), "{:?}", log.recovery());
}

#[test]
fn fields_of_json_are_found_by_their_paths() {
    let annals = Annals::new();
    let lines = concat!(
        r#"{"customer":{"id":17},"at":1769860800,"items":[{"sku":"A"}],"payload":{"x":[1]},"a.b":"dotted"}"#,
        "\n\n",
        r#"{"customer":{"id":"18"},"at":1769860801,"items":[{"sku":"B"}],"payload":null,"a.b":"dotted"}"#,
        "\n",
        r#"{"customer":{"id":true},"at":1769860802,"items":[{"sku":"C"}],"payload":"text","a.b":"dotted"}"#,
    );
    let args = [
        "import",
        "t",
        "--create",
        "--partitions",
        "1",
        "--key",
        "customer.id",
        "--time",
        "at",
        "--time-unit",
        "s",
        "--type",
        "items.0.sku",
        "--value",
        "payload",
    ];
    annals.run_with_input(&args, lines.as_bytes()).ok();
    let records = annals.json(&["cat", "t"]);
    assert_eq!(records.iter().map(|it| &it["key"]).collect::<Vec<_>>(), ["17", "18", "true"]);
    assert_eq!(records[0]["value"], r#"{"x":[1]}"#);
    assert_eq!((&records[1]["value"], &records[2]["value"]), (&Value::Null, &"text".into()));
    assert_eq!(records[0]["time"], "2026-01-31T12:00:00.000000Z");
    assert_eq!(
        records[2]["headers"],
        serde_json::json!([{"name": "event_type", "value": "C"}]),
        "standard input has no name"
    );

    let bad = |args: &[&str], line: &str, saying: &str| {
        let answer = annals
            .run_with_input(&[&["import", "t"], args].concat(), format!("{{\"k\":\"good\"}}\n{line}\n").as_bytes());
        answer.fails(1, saying);
    };
    bad(&["--key", "k"], "{\"k\":", "line 2: is no JSON");
    bad(&["--format", "ndjson"], "[1]", "line 2: is an array; expected an object");
    bad(&["--key", "k"], "{\"l\":1}", "line 2: has no field \"k\"");
    bad(&["--key", "k"], "{\"k\":{}}", "line 2: the field \"k\" is an object");
    bad(&["--key", "k", "--time", "k"], "{}", "line 1: the field \"k\" is \"good\", which is no time");
    // The good line before each bad one was written, where it was good.
    assert_eq!(annals.json(&["cat", "t"]).len(), 3 + 4);
    let answer = annals.run_with_input(&["import", "t", "--key", "k", "--skip-bad"], b"{\"k\":1}\nbad\n{\"k\":2}\n");
    assert_eq!(answer.code, 0);
    assert!(answer.err.contains("warning: standard input: line 2: is no JSON"), "{}", answer.err);
    assert!(answer.out.starts_with("2 records") && answer.out.contains("1 lines were passed over"), "{}", answer.out);
}

#[test]
fn an_import_that_stopped_goes_on_where_it_was() {
    let annals = Annals::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.ndjson");
    let line = |number: usize| format!("{{\"k\":\"{number}\"}}\n");
    let write = |lines: &[String]| fs::write(&file, lines.concat()).unwrap();
    let path = file.to_str().unwrap();
    let import = ["import", "t", path, "--key", "k", "--create", "--partitions", "4"];
    let mut lines: Vec<String> = (0..100).map(line).collect();
    lines[60] = "broken\n".to_owned();
    write(&lines);
    annals.run(&import).fails(1, "line 61: is no JSON");
    assert_eq!(annals.json(&["cat", "t"]).len(), 60);
    // Others write to the topic meanwhile.
    for _ in 0..3 {
        annals.run(&["produce", "t", "other"]).ok();
    }
    lines[60] = line(60);
    write(&lines);
    let out = annals.run(&import).ok();
    assert!(out.starts_with("40 records of ") && out.contains("lines up to 60 were there"), "{out}");
    assert!(annals.run(&import).ok().starts_with("0 records of "));
    assert_eq!(annals.json(&["cat", "t"]).len(), 103);
    // More lines come.
    lines.extend((100..110).map(line));
    write(&lines);
    assert!(annals.run(&import).ok().starts_with("10 records of "));
    // A file that is another one by now is not taken for the same.
    lines[109] = line(7);
    write(&lines);
    annals.run(&import).fails(2, "line 110 of ");
    lines.truncate(50);
    write(&lines);
    annals.run(&import).fails(2, "has 50 lines, and line 110 was imported before");
    annals.run(&[&import[..], &["--source", "second"]].concat()).ok();
    annals.run(&[&import[..], &["--no-resume"]].concat()).ok();
    assert_eq!(annals.json(&["cat", "t"]).len(), 113 + 50 + 50);
    // Standard input, and gzip, under the same name.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all((0..51).map(line).collect::<String>().as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    let stdin = ["import", "t", "-", "--key", "k", "--source", "second"];
    assert!(annals.run_with_input(&stdin, &packed).ok().starts_with("1 records of standard input"));
    annals.run_with_input(&stdin, &packed[..packed.len() / 2]).fails(1, "cannot be read");
}

/// Killed again and again in the middle, by a signal that nothing can catch.
#[test]
fn an_import_that_is_killed_loses_and_doubles_nothing() {
    let annals = Annals::new();
    annals.run(&["create", "t", "--partitions", "3"]).ok();
    let count = 12_000;
    let lines: Vec<String> =
        (0..count).map(|number| format!("{{\"k\":\"key-{}\",\"n\":{number}}}\n", number % 97)).collect();
    let args = ["import", "t", "-", "--key", "k", "--source", "lines", "--batch", "100"];
    let held = || -> u64 { annals.segments().iter().map(|path| fs::metadata(path).unwrap().len()).sum() };
    for kill in 1..=5 {
        let before = held();
        let mut child = annals.command(&args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Up to a part of the lines; the pipe stays open, so the import cannot come to its end.
        stdin.write_all(lines[..count * kill / 6].concat().as_bytes()).unwrap();
        wait_until("something is written", || held() > before);
        child.kill().unwrap();
        child.wait().unwrap();
        drop(stdin);
        let report = annals::inspect::verify(annals.path(), |_| ()).unwrap();
        assert!(report.is_intact(), "{report:?}");
    }
    let there = annals.json(&["cat", "t"]).len();
    assert!(there > 0 && there < count, "{there} records: no kill was in the middle");
    let out = annals.run_with_input(&args, lines.concat().as_bytes()).ok();
    assert!(out.starts_with(&format!("{}", (count - there) / 1000)) && out.contains("were there"), "{there}: {out}");
    let records = annals.json(&["cat", "t"]);
    assert_eq!(records.len(), count);
    let mut numbers: Vec<u64> = records.iter().map(number_of).collect();
    // In the order of the input within each partition, and each once.
    for partition in 0..3 {
        let mine: Vec<u64> = records.iter().filter(|it| it["partition"] == partition).map(number_of).collect();
        assert!(mine.is_sorted() && !mine.is_empty(), "partition {partition}");
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..count as u64).collect::<Vec<_>>());
}

fn number_of(record: &Value) -> u64 {
    let value: Value = serde_json::from_str(record["value"].as_str().unwrap()).unwrap();
    value["n"].as_u64().unwrap()
}

#[test]
fn a_flipped_bit_is_found_and_repaired() {
    let annals = Annals::new();
    annals.run(&["create", "t", "--partitions", "2"]).ok();
    for number in 0..40 {
        let partition = (number % 2).to_string();
        annals.run(&["produce", "t", &format!("value {number}"), "--partition", &partition]).ok();
    }
    let values = |args: &[&str]| -> Vec<String> {
        annals.run(&[&["cat", "t", "--format", "raw"], args].concat()).ok().lines().map(str::to_owned).collect()
    };
    let before = values(&[]);
    let segment = annals.segments()[0].clone();
    // In the fourth frame of partition 0: offset 3.
    flip(&segment, 80 + 3 * (72 + 9) + 75);
    let intact = contents(&annals.path());

    let out = annals.run(&["verify"]).fails(3, "damage was found in one place");
    assert!(
        out.contains("damaged: ") && out.contains("topic t, partition 0") && out.contains("offsets 3 to 3"),
        "{out}"
    );
    let out = annals.run(&["verify", "--format", "json"]).fails(3, "");
    let report: Value = serde_json::from_str(&out).unwrap();
    let damage = &report["damage"][0];
    assert_eq!((&report["ok"], &report["records"]), (&false.into(), &39.into()));
    assert_eq!((&damage["topic"], &damage["partition"], &damage["position"]), (&"t".into(), &0.into(), &323.into()));
    assert_eq!((&damage["first_offset"], &damage["next_offset"]), (&3.into(), &4.into()));
    let out = annals.run(&["cat", "t", "--partition", "0"]).fails(3, "damaged");
    assert_eq!(out.lines().count(), 3, "what comes before it is shown");
    let dump = annals.run(&["dump-segment", segment.to_str().unwrap()]).ok();
    assert!(dump.contains("323: frame of records, header checksum ok, BODY DAMAGED"), "{dump}");

    let changed = || {
        let now = contents(&annals.path());
        segment_files(&now) != segment_files(&intact)
    };
    let out = annals.run(&["repair"]).fails(3, "nothing was changed; --apply does it");
    assert!(out.contains("would be lost: 1 offsets, 3") && out.contains("to do: copy "), "{out}");
    assert!(!changed(), "a dry run changes nothing");
    let out = annals.run(&["repair", "--apply"]).ok();
    assert!(out.contains("lost: 1 offsets, 3") && out.contains("kept: "), "{out}");
    assert!(changed());
    let evidence = segment.with_extension("log.damaged");
    assert_eq!(fs::read(evidence).unwrap(), intact[&segment]);

    let out = annals.run(&["verify"]).ok();
    assert!(out.contains("39 records") && out.contains("1 offsets are not there"), "{out}");
    let mut expected = before;
    expected.retain(|value| value != "value 6");
    assert_eq!(values(&[]), expected);
    assert_eq!(values(&["--partition", "0", "--from", "offset:3", "--max", "1"]), ["value 8"]);
    // And it takes records again, at the offsets that follow.
    let receipt = annals.run(&["produce", "t", "after", "--partition", "0"]).ok();
    assert!(receipt.starts_with("t/0@20 "), "{receipt}");
    assert_eq!(annals.run(&["repair", "--apply"]).ok(), "nothing is damaged\n");
}

fn segment_files(all: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<(&PathBuf, &Vec<u8>)> {
    all.iter().filter(|(path, _)| path.to_str().unwrap().contains(".log")).collect()
}

#[test]
fn damage_to_the_log_as_a_whole_is_told_by_every_command() {
    let annals = Annals::with_sample();
    let manifest = annals.path().join("MANIFEST");
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, vec![1; whole.len()]).unwrap();
    for command in [&["topics"][..], &["verify"], &["repair"], &["cat"]] {
        annals.run(command).fails(3, "neither slot of the manifest holds");
    }
    fs::write(&manifest, whole).unwrap();
    let settings = annals.path().join("topics/orders/topic.toml");
    flip(&settings, 100);
    let out = annals.run(&["verify"]).fails(3, "damage was found");
    assert!(out.contains("topics/orders/topic.toml"), "{out}");
    let out = annals.run(&["repair"]).fails(3, "cannot be repaired");
    assert!(out.contains("cannot be repaired: "), "{out}");
    flip(&settings, 100);
    annals.run(&["verify"]).ok();
}

#[test]
fn a_journal_can_be_shown() {
    let annals = Annals::with_sample();
    let journal = annals.path().join("journal/0000.journal");
    let dump = annals.run(&["dump-journal", journal.to_str().unwrap()]).ok();
    assert!(dump.contains("journal header, checksum ok") && dump.contains("2 frames"), "{dump}");
}

#[test]
fn colours_only_where_they_are_wanted() {
    let annals = Annals::with_sample();
    let colored = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = annals.command(args);
        command.envs(variables.iter().copied());
        answer(command).out.contains('\x1b')
    };
    assert!(!colored(&["cat", "orders"], &[]), "not a terminal");
    assert!(colored(&["cat", "orders", "--color", "always"], &[]));
    assert!(!colored(&["cat", "orders", "--color", "never"], &[("CLICOLOR_FORCE", "1")]));
    assert!(colored(&["cat", "orders"], &[("CLICOLOR_FORCE", "1")]));
    assert!(!colored(&["cat", "orders"], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]), "NO_COLOR");
    assert!(!colored(&["cat", "orders", "--format", "json", "--color", "always"], &[]), "JSON is for programs");
}

#[test]
fn help_pages_and_completions() {
    let annals = Annals::new();
    let help = annals.run(&["--help"]).ok();
    assert!(help.contains("Exit codes:") && help.contains("  3  damage was found"), "{help}");
    for command in [
        "topics",
        "describe",
        "create",
        "delete",
        "produce",
        "import",
        "tail",
        "cat",
        "find",
        "groups",
        "stats",
        "verify",
        "repair",
        "dump-segment",
        "dump-journal",
        "completions",
        "man",
    ] {
        let help = annals.run(&[command, "--help"]).ok();
        assert!(help.contains("Example") && help.contains("annals"), "{help}");
        let page = annals.run(&["man", command]).ok();
        assert!(page.contains(".TH") && page.contains("EXTRA"), "{page}");
    }
    let page = annals.run(&["man"]).ok();
    assert!(page.contains(".TH annals 1") && page.contains("damage was found"), "{page}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(annals.run(&["completions", shell]).ok().contains("dump-segment"));
    }
    assert!(annals.run(&["--version"]).ok().contains(env!("CARGO_PKG_VERSION")));
}

/// The real histories, where `ANNALS_DATA` names a directory of them.
#[test]
fn real_histories_come_through() {
    let Some(dir) = std::env::var_os("ANNALS_DATA") else {
        eprintln!("skipped: ANNALS_DATA is not set");
        return;
    };
    let mut found = 0;
    for file in files(Path::new(&dir)).iter().filter(|file| file.to_str().unwrap().ends_with(".ndjson.gz")) {
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(fs::File::open(file).unwrap()).read_to_string(&mut text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let annals = Annals::new();
        let args = [
            &["import", "history", file.to_str().unwrap(), "--create", "--partitions", "4", "--compression", "lz4"][..],
            &SAMPLE_FIELDS,
        ]
        .concat();
        let out = annals.run(&args).ok();
        let again = annals.run(&args).ok();
        eprintln!("{out}{again}");
        assert!(again.starts_with("0 records"), "{again}");
        let records = annals.json(&["cat", "history"]);
        assert_eq!(records.len(), lines.len());
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        for record in &records {
            let headers = record["headers"].as_array().unwrap();
            let line: usize = headers[2]["value"].as_str().unwrap().parse().unwrap();
            assert_eq!(record["value"], lines[line - 1]);
            let before = last.insert(record["key"].as_str().unwrap(), line).unwrap_or(0);
            assert!(before < line, "line {line} of its key comes after line {before}");
        }
        annals.run(&["verify"]).ok();
        found += 1;
    }
    assert!(found > 0, "{dir:?} has no *.ndjson.gz");
}
