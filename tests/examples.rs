//! The examples do what they say.
//!
//! They are run as their user runs them: as programs, by their arguments and exit codes.
#![expect(clippy::unwrap_used, reason = "a test fails where it must")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Builds an example if need be, in the profile of this test, and answers where it is. `cargo test` has built it already; then
/// this takes a moment. `cargo test --test examples` has not, and a stale one would be tested.
fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let profile_dir = this.parent().and_then(Path::parent).unwrap();
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "test",
        Some(profile) => profile,
    };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--message-format", "json-render-diagnostics"])
        .args(["--profile", profile, "--example", name, "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        // What it needs, and no more: the others are built without any feature.
        .args(if name == "7_testing" { &["--features", "testing"][..] } else { &[] })
        .output()
        .unwrap();
    assert!(built.status.success(), "the example does not build: {}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|artifact| artifact["target"]["name"] == name)
        .find_map(|artifact| artifact["executable"].as_str().map(PathBuf::from))
        .expect("cargo says where the example is")
}

fn history(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(BUILT.get_or_init(|| example("1_history")));
    for arg in args {
        command.arg(arg);
    }
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn assert_success(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(output), stderr(output));
}

/// A row of the printed table.
#[track_caller]
fn row(output: &Output, name: &str) -> String {
    let table = stdout(output);
    let row = table.lines().find_map(|line| line.strip_prefix(&format!("{name:<14} ")));
    row.unwrap_or_else(|| panic!("no row {name}:\n{table}")).to_owned()
}

fn file(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("events.ndjson");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn the_history_tells_the_whole_story_by_itself() {
    let told = history(&[]);
    assert_success(&told);
    assert!(row(&told, "events").starts_with("266 of 25 keys, 1887-05-02 to "));
    assert!(row(&told, "opening").starts_with("killed before, epoch 1"));
    assert!(row(&told, "found").ends_with("133 of them acknowledged before the crash"));
    assert!(row(&told, "complete").starts_with("yes"));
    assert!(stderr(&told).contains("133 events are acknowledged: killing the process"));
}

#[test]
fn the_history_goes_on_where_it_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    for crash_after in ["1", "40", "60"] {
        let killed = history(&[&"--dir", &log, &"--crash-after", &crash_after]);
        assert!(!matches!(killed.status.code(), Some(0..=2)), "{}{}", stdout(&killed), stderr(&killed));
    }
    let finished = history(&[&"--dir", &log]);
    assert_success(&finished);
    assert!(row(&finished, "opening").starts_with("killed before"));
    let again = history(&[&"--dir", &log, &"--crash-after", &"1"]);
    assert_success(&again);
    assert_eq!(row(&again, "found"), "266 events");
    assert_eq!(row(&again, "appended"), "0 events, each on the disk: nothing to do");
    assert!(row(&again, "opening").starts_with("closed cleanly before"));
    assert!(row(&again, "no crash").starts_with("only 0 events were left"));
}

#[test]
fn the_history_takes_whatever_is_an_event() {
    let one = r#"{"type":"a","key":"k","time":"1066-10-14T09:00:00+00:17","more":{"x":[1,null,"é"]}}"#;
    let other = r#"{"time":"1066-10-14T09:00:00Z","key":"","type":"\u00e9 \ud83d\udcda","key2":1e999}"#;
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("empty", Vec::new(), "0 of 0 keys"),
        ("blank lines only", b"\n\r\n  \n".to_vec(), "0 of 0 keys"),
        ("one line, no end", one.into(), "1 of 1 keys"),
        ("CRLF, blank lines", format!("\r\n{one}\r\n\r\n{other}\r\n{one}\r\n").into(), "3 of 2 keys"),
        ("byte order mark", format!("\u{feff}{one}\n").into(), "1 of 1 keys"),
        ("gzip", gzip(format!("{one}\n{other}").as_bytes()), "2 of 2 keys"),
        ("gzip of two members", [gzip(format!("{one}\n").as_bytes()), gzip(other.as_bytes())].concat(), "2 of 2 keys"),
    ];
    for (name, bytes, events) in cases {
        let dir = tempfile::tempdir().unwrap();
        let told = history(&[&file(dir.path(), &bytes)]);
        assert_success(&told);
        assert!(row(&told, "events").starts_with(events), "{name}: {}", row(&told, "events"));
    }
}

#[test]
fn the_history_says_what_is_wrong_with_its_input() {
    let good = r#"{"type":"a","key":"k","time":"1970-01-01T00:00:00Z"}"#;
    let cases: [(&[u8], &str); 12] = [
        (b"{\"type\":", ":2: is no JSON (EOF while parsing a value, column 8)"),
        (b"[1]", ":2: is no JSON object"),
        (b"{\"type\":\"a\",\"time\":\"1970-01-01T00:00:00Z\"}", ":2: \"key\" is missing or null"),
        (b"{\"type\":\"a\",\"key\":17,\"time\":\"1970-01-01T00:00:00Z\"}", ":2: \"key\" is 17, which is no text"),
        (b"{\"type\":\"a\",\"key\":null,\"time\":\"1970-01-01T00:00:00Z\"}", ":2: \"key\" is missing or null"),
        (b"{\"key\":\"k\",\"time\":\"1970-01-01T00:00:00Z\"}", ":2: \"type\" is missing or null"),
        (b"{\"type\":\"a\",\"key\":\"k\"}", ":2: \"time\" is missing or null"),
        (b"{\"type\":\"a\",\"key\":\"k\",\"time\":\"yesterday\"}", ":2: \"time\" is \"yesterday\""),
        (b"{\"type\":\"a\",\"key\":\"k\",\"time\":\"1970-01-01T00:00:00\"}", ":2: \"time\" is \"1970-01-01T00:00:00\""),
        (
            b"{\"type\":\"a\",\"key\":\"k\",\"key\":\"l\",\"time\":\"1970-01-01T00:00:00Z\"}",
            ":2: is no JSON (duplicate field",
        ),
        (b"\xff\xfe", ":2: is not UTF-8"),
        (b"{} {}", ":2: is no JSON (trailing characters"),
    ];
    for (line, message) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), &[good.as_bytes(), b"\n", line].concat());
        assert_refused(&[&path], &format!("{}{message}", path.display()));
        assert_refused(&[&path], "expected one JSON object with \"type\" and \"key\" (text)");
    }
    let dir = tempfile::tempdir().unwrap();
    let cut = gzip(good.repeat(500).replace("}{", "}\n{").as_bytes());
    let path = file(dir.path(), &cut[..cut.len() - 9]);
    assert_refused(&[&path], "cannot be read");
    assert_refused(&[&dir.path().join("nowhere")], "nowhere: cannot be read");
    assert_refused(&[&dir.path()], "cannot be read");
}

#[test]
fn the_history_says_what_is_wrong_with_its_arguments() {
    let dir = tempfile::tempdir().unwrap();
    assert_refused(&[&"--crash-after", &"0"], "--crash-after: expected a whole number from 1");
    assert_refused(&[&"--crash-after"], "--crash-after: expected a whole number from 1");
    assert_refused(&[&"--crash-after", &"267"], "has 266 events");
    assert_refused(&[&"--dir"], "--dir: expected a directory");
    assert_refused(&[&"--quick"], "--quick: unknown");
    assert_refused(&[&"a", &"b"], "b: expected one PATH only");
    assert_refused(&[&"--dir", &file(dir.path(), b"")], "events.ndjson");
    let help = history(&[&"--help"]);
    assert_success(&help);
    assert!(stdout(&help).contains("exit code: 0 if everything holds"));
}

#[test]
fn the_history_notices_a_log_of_another_input() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let line = |kind| format!(r#"{{"type":"{kind}","key":"k","time":"1970-01-01T00:00:00Z"}}"#);
    assert_success(&history(&[&file(dir.path(), line("a").as_bytes()), &"--dir", &log]));
    let other = history(&[&file(dir.path(), line("b").as_bytes()), &"--dir", &log]);
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("not the text of line 1"), "{}", stderr(&other));
}

/// Exit code 2, and one line that says why.
#[track_caller]
fn assert_refused(args: &[&dyn AsRef<std::ffi::OsStr>], message: &str) {
    let refused = history(args);
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains(message), "{message:?} is not in {said:?}");
    assert_eq!(said.lines().count(), 1, "{said:?}");
}

#[test]
fn years_are_three_passes_through_four_kills() {
    let years = example("2_years");
    let run = |args: &[&str]| Command::new(&years).args(args).output().unwrap();
    let output = run(&[]);
    assert_success(&output);
    assert_eq!(stdout(&output).lines().filter(|line| line.starts_with("killed  ")).count(), 4);
    assert_eq!(row(&output, "repeated"), "none is stored twice");
    assert!(row(&output, "last values").starts_with("hold"));
    assert!(row(&output, "opening").starts_with("killed before"));

    // By hand, in a directory of its own: killed, gone on with, and then nothing is left to do.
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    assert_eq!(run(&["--dir", dir, "--crash-after", "300"]).status.code(), None, "it is to be killed");
    let output = run(&["--dir", dir]);
    assert_success(&output);
    assert!(!row(&output, "found").starts_with("0 of"), "{}", stdout(&output));
    let output = run(&["--dir", dir]);
    assert!(row(&output, "events").starts_with("0 sent"), "{}", stdout(&output));

    // Another input does not pass for the one that the log has.
    let mut other = tempfile::NamedTempFile::new().unwrap();
    writeln!(other, r#"{{"type":"t","key":"k","time":"2026-01-01T00:00:00Z"}}"#).unwrap();
    let output = run(&[other.path().to_str().unwrap(), "--dir", dir]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).starts_with("2_years: CHECK FAILED: "), "{}", stderr(&output));
    for bad in [&["--what"][..], &["a", "b"], &["--crash-after", "0"], &["/nowhere/at/all"]] {
        assert_eq!(run(bad).status.code(), Some(2), "{bad:?}");
    }
    assert!(stdout(&run(&["--help"])).contains("usage: cargo run --release --example 2_years"));
}

/// The columns of a group in the table of the third example, by their headings.
#[track_caller]
fn group(output: &Output, name: &str) -> std::collections::BTreeMap<String, u64> {
    let table = stdout(output);
    let columns = |name: &str| table.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
    let headings = columns("GROUP").split_whitespace().skip(1).map(str::to_owned);
    headings.zip(columns(name).split_whitespace().skip(1).map(|cell| cell.replace(',', "").parse().unwrap())).collect()
}

#[test]
fn groups_finish_everything_through_a_kill() {
    let groups = example("3_groups");
    let run = |args: &[&str]| Command::new(&groups).args(args).output().unwrap();
    let told = run(&[]);
    assert_success(&told);
    assert_eq!(row(&told, "killed"), "after 199 events of the workers");
    assert!(stderr(&told).contains("the workers have processed 199 events: killing the process"));
    assert!(row(&told, "opening").starts_with("killed before, epoch 1"));
    assert_eq!(row(&told, "events"), "266 of 25 keys in 6 partitions");
    assert_eq!(row(&told, "exactly once"), "266 outcomes of 266 events");
    let (workers, stage) = (group(&told, "workers"), group(&told, "stage"));
    assert_eq!((workers["MEMBERS"], workers["CRASHED"], workers["LEFT"]), (3, 1, 1), "{}", stdout(&told));
    assert!(workers["REDELIVERED"] >= 1 && workers["REBALANCES"] >= 3, "{}", stdout(&told));
    assert_eq!((stage["CRASHED"], stage["REDELIVERED"]), (1, 0), "{}", stdout(&told));
    for name in ["workers", "audit", "stage"] {
        assert_eq!((group(&told, name)["COMMITTED"], group(&told, name)["LAG"]), (266, 0), "{}", stdout(&told));
    }

    // By hand, in a directory of its own: killed, gone on with, and then nothing is left to do.
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let log = log.to_str().unwrap();
    let killed = run(&["--dir", log, "--crash-after", "20"]);
    assert_eq!(killed.status.code(), None, "{}{}", stdout(&killed), stderr(&killed));
    assert_success(&run(&["--dir", log]));
    let again = run(&["--dir", log]);
    assert_success(&again);
    assert!(row(&again, "opening").starts_with("closed cleanly before"), "{}", stdout(&again));
    assert!(row(&again, "found").contains("workers 266 (0 open), audit 266 (0 open), stage 266 (0 open)"));
    assert_eq!(group(&again, "workers")["PROCESSED"], 0);

    // Histories without a middle, and another input than the log's.
    let one = "{\"type\":\"t\",\"key\":\"k\",\"time\":\"2026-01-01T00:00:00Z\"}\n";
    for count in [0, 1, 2, 5] {
        let path = file(dir.path(), one.repeat(count).as_bytes());
        let small = dir.path().join(format!("small-{count}"));
        let told = run(&[path.to_str().unwrap(), "--dir", small.to_str().unwrap()]);
        assert_success(&told);
        assert_eq!(row(&told, "exactly once"), format!("{count} outcomes of {count} events"));
        assert_success(&run(&[path.to_str().unwrap()]));
    }
    let other = run(&[file(dir.path(), one.as_bytes()).to_str().unwrap(), "--dir", log]);
    assert_eq!(other.status.code(), Some(1), "{}", stderr(&other));
    assert!(stderr(&other).starts_with("3_groups: CHECK FAILED: "), "{}", stderr(&other));
    for bad in [&["--what"][..], &["a", "b"], &["--crash-after", "0"], &["--crash-after", "267"], &["/nowhere/at/all"]]
    {
        assert_eq!(run(bad).status.code(), Some(2), "{bad:?}");
    }
    assert!(stdout(&run(&["--help"])).contains("usage: cargo run --release --example 3_groups"));
}

/// The cells of a group in the table of the fifth example.
#[track_caller]
fn bus_group(output: &Output, name: &str) -> Vec<u64> {
    let table = stdout(output);
    let row = table.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
    row.split_whitespace().skip(1).map(|cell| cell.replace(',', "").parse().unwrap()).collect()
}

#[test]
fn the_bus_loses_nothing_through_two_kills() {
    let bus = example("5_bus");
    let run = |args: &[&str]| Command::new(&bus).args(args).output().unwrap();
    let told = run(&[]);
    assert_success(&told);
    let kills = stderr(&told).lines().filter(|line| line.ends_with("attempt 479 of all: killing the process")).count();
    assert_eq!(kills, 2, "{}", stderr(&told));
    assert!(!stderr(&told).contains("panicked at"), "planned panics are nobody's business: {}", stderr(&told));
    assert!(row(&told, "opening").starts_with("killed before, epoch 2"));
    assert_eq!(row(&told, "events"), "266 of 25 cases in 4 partitions");
    assert_eq!(row(&told, "nothing lost"), "1,262 done and 22 dead letters, of 5 groups");
    assert_eq!(row(&told, "dead letters"), "22, each as planned");
    assert_eq!(row(&told, "order per key"), "holds in each group, through retries and kills");
    assert!(row(&told, "handled again").ends_with(" attempts, each after a kill"));
    assert_eq!(row(&told, "exactly once"), "266 answers to 266 events");
    assert_eq!(row(&told, "projection"), "5 open cases, as the input says (\"shelved\" closes one)");
    assert_eq!(row(&told, "compensations"), "11 of 5 cases, the last step first");
    for (name, done, dead) in
        [("shaky", 250, 16), ("slow", 266, 0), ("panicky", 260, 6), ("stage", 266, 0), ("saga", 220, 0)]
    {
        let cells = bus_group(&told, name);
        assert_eq!(cells[..2], [done, dead], "{name}: {}", stdout(&told));
        assert!(cells[2] > done + dead && cells[3] > 0, "{name}: {}", stdout(&told));
        assert_eq!(cells[4] > 0, name == "panicky", "{name}: {}", stdout(&told));
    }
    let told = stdout(&told);
    let tree = told.split_once("\nall 34 events of loan-0002, each below its cause:\n").unwrap().1;
    assert_eq!(tree.lines().count(), 34, "{told}");
    assert!(tree.contains("\"step.taken-back\"\n  │  └─ apologies "), "{told}");
    assert!(tree.contains("shaky.dlq: given up by shaky (failed, attempt 4)"), "{told}");

    // By hand, in a directory of its own: killed, gone on with, and then nothing is left to do.
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let log = log.to_str().unwrap();
    let killed = run(&["--dir", log, "--crash-after", "100"]);
    assert_eq!(killed.status.code(), None, "{}{}", stdout(&killed), stderr(&killed));
    let on = run(&["--dir", log]);
    assert_success(&on);
    let again = run(&["--dir", log]);
    assert_success(&again);
    assert!(row(&again, "opening").starts_with("closed cleanly before"), "{}", stdout(&again));
    assert_eq!((row(&again, "found"), bus_group(&again, "slow")), ("266 events".into(), bus_group(&on, "slow")));

    // Histories without a middle, and another input than the log's.
    let one = "{\"type\":\"t\",\"key\":\"k\",\"time\":\"2026-01-01T00:00:00Z\"}\n";
    for count in [0, 1, 2, 5] {
        let path = file(dir.path(), one.repeat(count).as_bytes());
        let small = dir.path().join(format!("small-{count}"));
        for args in [&[path.to_str().unwrap()][..], &[path.to_str().unwrap(), "--dir", small.to_str().unwrap()]] {
            let told = run(args);
            assert_success(&told);
            assert_eq!(row(&told, "exactly once"), format!("{count} answers to {count} events"));
        }
    }
    let other = run(&[file(dir.path(), one.as_bytes()).to_str().unwrap(), "--dir", log]);
    assert_eq!(other.status.code(), Some(1), "{}", stderr(&other));
    assert!(stderr(&other).starts_with("5_bus: CHECK FAILED: "), "{}", stderr(&other));
    let malformed = run(&[file(dir.path(), format!("{one}{{}}\n").as_bytes()).to_str().unwrap()]);
    assert_eq!(malformed.status.code(), Some(2), "{}", stderr(&malformed));
    assert!(stderr(&malformed).contains("events.ndjson:2: \"time\" is missing"), "{}", stderr(&malformed));
    for bad in [&["--what"][..], &["a", "b"], &["--crash-after", "0"], &["--crash-after", "9999"], &["/nowhere/at/all"]]
    {
        assert_eq!(run(bad).status.code(), Some(2), "{bad:?}");
    }
    assert!(stdout(&run(&["--help"])).contains("usage: cargo run --release --example 5_bus"));
}

#[cfg(feature = "testing")]
#[test]
fn testing_tells_the_right_version_from_those_with_a_defect() {
    let testing = example("7_testing");
    let run = |args: &[&str]| Command::new(&testing).args(args).output().unwrap();
    let output = run(&["--cases", "100"]);
    assert_success(&output);
    let told = stdout(&output);
    let version = |name: &str| {
        let rest = told.lines().skip_while(|line| *line != name).skip(1);
        rest.take_while(|line| line.starts_with(' ')).collect::<Vec<_>>().join("\n")
    };
    assert!(version("Right").contains("holds in 100 cases") && !version("Right").contains("FOUND"), "{told}");
    assert!(version("RoundRobin").contains("order         FOUND: topic transfers: of key "), "{told}");
    let smallest = "the smallest case, transfer by transfer: ann +0, ann +0, and these partitions' workers first: [1]";
    assert!(version("RoundRobin").contains(smallest), "{told}");
    assert!(version("TwoWrites").contains("power losses  FOUND: the power went at call "), "{told}");
    assert!(version("TwoWrites").contains("(again: CrashTest::new(7).only("), "{told}");
    assert_eq!(told, stdout(&run(&["--cases", "100"])), "the same each time");

    for bad in [&["--what"][..], &["--cases"], &["--cases", "0"], &["--cases", "x"], &["--cases", "5", "6"]] {
        assert_eq!(run(bad).status.code(), Some(2), "{bad:?}");
    }
    assert!(stdout(&run(&["--help"])).contains("usage: cargo run --release --example 7_testing"));
}
