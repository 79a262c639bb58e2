//! `annals groups`: each subcommand, for people and as JSON, alone and beside a program that consumes.

use annals::{Consumer, Log, Message, Record, TopicDef, TopicSettings};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{Annals, contents};

/// A topic of two partitions, of 10 records and of 4; each partition's are an hour apart, and the last are of now.
fn fill(log: &Log, now: DateTime<Utc>) {
    let topic: annals::Topic<Bytes> =
        log.blocking_create_topic(TopicDef::named("orders"), TopicSettings::default().partitions(2)).unwrap();
    for (partition, count) in [(0, 10), (1, 4)] {
        for number in 1..=count {
            let at = now - TimeDelta::hours(count - number);
            topic.blocking_produce(Record::new(Bytes::new()).partition(partition).timestamp(at)).unwrap();
        }
    }
}

fn receive(consumer: &mut Consumer, count: usize) -> Vec<Message> {
    (0..count).map(|_| consumer.blocking_recv().unwrap().unwrap()).collect()
}

/// With a group that has committed 6 of partition 0 and finished its offset 8, and 4 of partition 1. It is a member still.
fn consuming(annals: &Annals) -> (Log, Consumer) {
    let log = Log::blocking_open(annals.path()).unwrap();
    fill(&log, Utc::now());
    let mut consumer = log.raw_topic("orders").unwrap().subscribe("billing").member("worker").blocking_build().unwrap();
    let messages = receive(&mut consumer, 14);
    let at = |partition, offset| {
        messages.iter().find(|message| (message.partition(), message.offset()) == (partition, offset)).unwrap()
    };
    consumer.blocking_commit_many([at(0, 5), at(1, 3)]).unwrap();
    consumer.finish(at(0, 8)).unwrap();
    consumer.blocking_commit_finished().unwrap();
    (log, consumer)
}

fn with_group() -> Annals {
    let annals = Annals::new();
    let (log, consumer) = consuming(&annals);
    drop(consumer);
    log.blocking_close().unwrap();
    annals
}

fn committed(annals: &Annals, group: &str) -> Vec<Value> {
    let described = annals.json(&["groups", "describe", group]).remove(0);
    described["partitions"].as_array().unwrap().iter().map(|partition| partition["committed"].clone()).collect()
}

#[test]
fn groups_are_listed_and_described_beside_their_program() {
    let annals = Annals::new();
    annals.run(&["groups", "list"]).fails(5, "there is no log in");
    annals.run(&["create", "empty"]).ok();
    assert_eq!(annals.run(&["groups", "list"]).ok(), "GROUP  PARTITIONS  LAG  LAG TIME\n");
    assert!(annals.json(&["groups", "list"]).is_empty());
    let (log, consumer) = consuming(&annals);
    let check = |annals: &Annals| {
        let listed = annals.run(&["groups", "list"]).ok();
        let line: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(line[..3], ["billing", "2", "3"], "{listed}");
        assert!(line[3].ends_with('h'), "{listed}");
        let listed = &annals.json(&["groups", "list"])[0];
        assert_eq!(
            (&listed["group"], &listed["partitions"], &listed["lag_records"]),
            (&json!("billing"), &json!(2), &json!(3))
        );

        let described = annals.run(&["groups", "describe", "billing"]).ok();
        assert!(described.contains("members             not known: only the program"), "{described}");
        let row = |name: &str, partition: &str| -> Vec<String> {
            let cells = described.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
            cells.into_iter().find(|cells| cells.len() > 1 && cells[0] == name && cells[1] == partition).unwrap()
        };
        assert_eq!(row("orders", "0")[2..7], ["?", "6", "0", "10", "3"], "{described}");
        assert_eq!(row("orders", "1")[2..8], ["?", "4", "0", "4", "0", "0s"], "{described}");
        assert_eq!(row("total", "2")[2], "3", "{described}");
        assert_eq!(row("total", "2").last().unwrap(), "1", "finished ahead: {described}");

        let described = &annals.json(&["groups", "describe", "billing"])[0];
        assert_eq!((&described["members"], &described["lag_records"]), (&Value::Null, &json!(3)));
        let first = &described["partitions"][0];
        let names =
            ["topic", "partition", "member", "committed", "log_start", "log_end", "lag_records", "finished_ahead"];
        let values = names.map(|name| first[name].clone());
        assert_eq!(json!(values), json!(["orders", 0, null, 6, 0, 10, 3, 1]));
        // The oldest of them is the record of offset 6, of three hours ago.
        let seconds = first["lag_seconds"].as_f64().unwrap();
        assert!((10_800.0..14_400.0).contains(&seconds), "{seconds}");
        assert!(first["committed_at"].as_str().unwrap().ends_with('Z'));
        assert_eq!(described["partitions"][1]["lag_seconds"], 0.0);
    };
    check(&annals);
    drop(consumer);
    log.blocking_close().unwrap();
    check(&annals);
    annals.run(&["groups", "describe", "nobody"]).fails(5, "there is no group \"nobody\"");
}

#[test]
fn a_reset_is_a_plan_until_it_is_executed() {
    let annals = with_group();
    let before = contents(&annals.path());
    let plan = annals.run(&["groups", "reset", "billing", "--to-earliest"]).ok();
    assert!(
        plan.starts_with("TOPIC   PARTITION  COMMITTED  WOULD BE\norders          0          6         0\n"),
        "{plan}"
    );
    assert!(plan.ends_with("nothing was changed; --execute does it\n"), "{plan}");
    let plan = annals.json(&["groups", "reset", "billing", "--to-latest"]);
    let change = |partition: u32, before: u64, after: u64, executed: bool| json!({"group": "billing", "topic": "orders", "partition": partition, "before": before, "after": after, "executed": executed});
    assert_eq!(plan, [change(0, 6, 10, false), change(1, 4, 4, false)]);
    assert_eq!(contents(&annals.path()), before, "a plan writes nothing");
    assert_eq!(committed(&annals, "billing"), [6, 4]);

    let executed = annals.json(&["groups", "reset", "billing", "--to-latest", "--execute"]);
    assert_eq!(executed, [change(0, 6, 10, true), change(1, 4, 4, true)]);
    let some_hours_ago = (Utc::now() - TimeDelta::minutes(330)).to_rfc3339();
    for (to, expected) in [
        (&["--shift-by", "-2"][..], [8, 2]),
        (&["--shift-by=1"], [9, 3]),
        (&["--to-offset", "3"], [3, 3]),
        (&["--to-latest"], [10, 4]),
        (&["--to-time", &some_hours_ago], [4, 0]),
        (&["--to-latest", "--topic", "orders"], [10, 4]),
        (&["--by-duration", "2h30m"], [7, 1]),
        (&["--to-time", "2999-01-01"], [10, 4]),
        (&["--to-earliest"], [0, 0]),
    ] {
        let out = annals.run(&[&["groups", "reset", "billing", "--execute"], to].concat()).ok();
        assert!(out.contains(" NOW\n") && out.ends_with("group billing is reset\n"), "{out}");
        assert_eq!(committed(&annals, "billing"), expected, "{to:?}");
    }
    // A group may be set before it is used; then a topic has to be named.
    annals.run(&["groups", "reset", "fresh", "--to-latest", "--execute"]).fails(5, "there is no group \"fresh\"");
    annals.run(&["groups", "reset", "fresh", "--to-latest", "--topic", "none"]).fails(5, "no topic \"none\"");
    annals.run(&["groups", "reset", "fresh", "--to-latest", "--topic", "orders", "--execute"]).ok();
    assert_eq!(committed(&annals, "fresh"), [10, 4]);
    annals.run(&["groups", "reset", "billing", "--to-offset", "5", "--execute"]).fails(7, "offset 5");
    assert_eq!(committed(&annals, "billing"), [0, 0], "not the one partition without the other");
}

#[test]
fn a_group_that_is_deleted_begins_anew() {
    let annals = with_group();
    annals.run(&["groups", "delete", "nobody"]).fails(5, "there is no group \"nobody\"");
    assert_eq!(annals.run(&["groups", "delete", "billing"]).ok(), "group billing is deleted\n");
    annals.run(&["groups", "describe", "billing"]).fails(5, "there is no group \"billing\"");
    assert!(annals.json(&["groups", "list"]).is_empty());
    let log = Log::blocking_open(annals.path()).unwrap();
    let mut consumer = log.raw_topic("orders").unwrap().subscribe("billing").blocking_build().unwrap();
    assert_eq!(receive(&mut consumer, 14).len(), 14);
}

#[test]
fn what_changes_groups_needs_the_log_to_itself() {
    let annals = Annals::new();
    let (log, consumer) = consuming(&annals);
    annals.run(&["groups", "reset", "billing", "--to-earliest", "--execute"]).fails(4, "nothing was reset: ");
    annals.run(&["groups", "delete", "billing"]).fails(4, "nothing was deleted: ");
    annals.run(&["groups", "delete", "billing"]).fails(4, "open for writing already, in another process");
    // A plan is for looking.
    assert_eq!(annals.json(&["groups", "reset", "billing", "--to-earliest"])[0]["after"], 0);
    assert_eq!(committed(&annals, "billing"), [6, 4]);
    drop(consumer);
    log.blocking_close().unwrap();
}

#[test]
fn groups_say_what_is_wrong_with_their_arguments() {
    let annals = with_group();
    for wrong in [
        &["groups", "reset", "billing"][..],
        &["groups", "reset", "billing", "--execute"],
        &["groups", "reset", "--to-latest"],
        &["groups", "reset", "billing", "--to-latest", "--to-earliest"],
        &["groups", "reset", "billing", "--shift-by", "1", "--to-offset", "1"],
        &["groups", "reset", "billing", "--shift-by", "some"],
        &["groups", "reset", "billing", "--to-offset", "-1"],
        &["groups", "reset", "billing", "--to-time", "noon"],
        &["groups", "reset", "billing", "--by-duration", "7"],
        &["groups", "reset", "billing", "--by-duration", "1h", "--to-time", "1h"],
        &["groups", "reset", "", "--topic", "orders", "--to-latest"],
        &["groups", "reset", "billing", "--topic", "__offsets", "--to-latest"],
        &["groups", "describe"],
        &["groups", "delete"],
        &["groups", "delete", "billing", "--to-latest"],
        &["groups", "list", "billing"],
        &["groups", "nonsense"],
        &["groups"],
    ] {
        let answer = annals.run(wrong);
        assert_eq!(answer.code, 2, "{wrong:?}: {answer:?}");
        assert!(!answer.err.is_empty() && !answer.err.contains("panicked"), "{wrong:?}: {answer:?}");
    }
    assert_eq!(committed(&annals, "billing"), [6, 4]);
    for subcommand in ["list", "describe", "reset", "delete"] {
        let help = annals.run(&["groups", subcommand, "--help"]).ok();
        assert!(help.contains(&format!("annals -d data groups {subcommand}")), "{help}");
        assert!(annals.run(&["man", "groups", subcommand]).ok().contains(".TH"));
    }
    annals.run(&["man", "groups", "nonsense"]).fails(2, "no subcommand");
}
