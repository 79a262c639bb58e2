//! `annals dead-letters`: each subcommand, for people and as JSON, alone and beside the program whose handlers have failed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use annals::{Context, Event, Log, Raw, Record, Retry, Start, TopicDef, TopicSettings};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Annals, contents};

const ORDERS: TopicDef<Bytes, Raw> = TopicDef::new("orders");

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A log in which `billing` has given up the events with the values 1, 3 and 5 of 0 to 5, with two attempts each.
async fn failing(annals: &Annals) -> Log {
    let log = Log::open(annals.path()).await.unwrap();
    log.create_topic(ORDERS, TopicSettings::default()).await.unwrap();
    let bus = log.bus();
    let billing = bus
        .on(ORDERS, "billing", |order: Event<Bytes>, _: Context| {
            match order.value().and_then(|value| value.last()).is_some_and(|last| (last - b'0') % 2 == 1) {
                true => Err(annals::HandlerError::from(std::io::Error::other("no\x1b[2J such account"))),
                false => Ok(()),
            }
        })
        .retry(Retry::fixed(2, std::time::Duration::from_millis(1)))
        .dead_letter("orders.dlq")
        .spawn()
        .await
        .unwrap();
    for number in 0..6 {
        let record = Record::new(Bytes::from(format!("order {number}"))).key(format!("key {number}"));
        bus.publish(ORDERS, record.header("tenant", "acme").header_absent("nothing")).await.unwrap();
    }
    billing.idle().await.unwrap();
    log
}

fn with_letters() -> Annals {
    let annals = Annals::new();
    runtime().block_on(async { failing(&annals).await.close().await.unwrap() });
    annals
}

fn open_ones(annals: &Annals) -> Vec<Value> {
    let listed = annals.json(&["dead-letters", "list", "billing", "orders.dlq"]);
    listed.iter().map(|letter| letter["original"]["value"].clone()).collect()
}

#[test]
fn dead_letters_are_listed_and_shown_beside_their_program() {
    let annals = Annals::new();
    annals.run(&["dead-letters", "list", "billing", "orders.dlq"]).fails(5, "there is no log in");
    let runtime = runtime();
    let log = runtime.block_on(failing(&annals));
    let check = |annals: &Annals| {
        let listed = annals.run(&["dead-letters", "list", "billing", "orders.dlq"]).ok();
        let lines: Vec<&str> = listed.lines().collect();
        assert!(lines[0].starts_with("PARTITION  OFFSET  FROM        WHEN"), "{listed}");
        assert_eq!(lines.len(), 4, "{listed}");
        assert!(lines[1].starts_with("        0       0  orders/0@1  20"), "{listed}");
        assert!(lines[1].ends_with("       2  failed  no\\u{1b}[2J such account"), "{listed}");

        let some = annals.run(&["dead-letters", "list", "billing", "orders.dlq", "--max", "2"]).ok();
        assert!(some.ends_with("there are more than 2; --max shows more of them\n"), "{some}");
        assert_eq!(some.lines().count(), 4, "{some}");

        let listed = annals.json(&["dead-letters", "list", "billing", "orders.dlq"]);
        assert_eq!(listed.len(), 3);
        let names = ["group", "topic", "partition", "offset", "reason", "errors", "attempts"];
        let values = names.map(|name| listed[1][name].clone());
        assert_eq!(json!(values), json!(["billing", "orders.dlq", 0, 1, "failed", ["no\u{1b}[2J such account"], 2]));
        let original = &listed[1]["original"];
        let names = ["topic", "partition", "offset", "key", "value"];
        assert_eq!(json!(names.map(|name| original[name].clone())), json!(["orders", 0, 3, "key 3", "order 3"]));
        assert_eq!(original["headers"][0], json!({"name": "tenant", "value": "acme"}));
        assert_eq!(original["headers"][1], json!({"name": "nothing", "value": null}));
        assert!(listed[1]["last_failure"].as_str() >= listed[1]["first_failure"].as_str());

        let shown = annals.run(&["dead-letters", "show", "billing", "orders.dlq", "0", "1"]).ok();
        for line in [
            "group               billing",
            "reason              failed",
            "error               no\\u{1b}[2J such account",
            "attempts            2",
            "original            orders/0@3",
            "key                 key 3",
            "header              tenant=acme",
            "header              nothing(no value)",
            "value               order 3",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line:?} is not in\n{shown}");
        }
        assert_eq!(annals.json(&["dead-letters", "show", "billing", "orders.dlq", "0", "1"]), [listed[1].clone()]);
    };
    check(&annals);
    runtime.block_on(log.close()).unwrap();
    let before = contents(&annals.path());
    check(&annals);
    assert_eq!(contents(&annals.path()), before, "looking writes nothing");
    annals.run(&["dead-letters", "show", "billing", "orders.dlq", "0", "7"]).fails(5, "no open dead letter at");
    annals.run(&["dead-letters", "list", "billing", "none"]).fails(5, "no topic \"none\"");
    assert!(annals.json(&["dead-letters", "list", "audit", "orders.dlq"]).is_empty(), "those of others");
}

#[test]
fn what_is_replayed_comes_to_the_group_again() {
    let annals = with_letters();
    annals
        .run(&["dead-letters", "replay", "billing", "orders.dlq", "0:0", "0:9"])
        .fails(5, "no open dead letter at topic orders.dlq, partition 0, offset 9");
    assert_eq!(open_ones(&annals).len(), 3, "all that are named, or none");
    let said = annals.run(&["dead-letters", "replay", "billing", "orders.dlq", "0:1"]).ok();
    assert_eq!(said, "1 dead letter is handed to group billing again: it handles them when its program runs again\n");
    assert_eq!(open_ones(&annals), ["order 1", "order 5"]);
    let said = annals.run(&["dead-letters", "replay", "billing", "orders.dlq", "--all"]).ok();
    assert!(said.starts_with("2 dead letters are handed to group billing again"), "{said}");
    assert!(open_ones(&annals).is_empty());
    let said = annals.run(&["dead-letters", "replay", "billing", "orders.dlq", "--all"]).ok();
    assert_eq!(said, "0 dead letters are handed to group billing again\n");

    let handled = Arc::new(Mutex::new(BTreeMap::new()));
    let seen = Arc::clone(&handled);
    runtime().block_on(async {
        let log = Log::open(annals.path()).await.unwrap();
        let handler = move |order: Event<Bytes>, cx: Context| {
            let value = String::from_utf8(order.value().unwrap().to_vec()).unwrap();
            *seen.lock().unwrap().entry((cx.group().to_owned(), value)).or_insert(0) += 1;
            Ok::<_, annals::HandlerError>(())
        };
        let bus = log.bus();
        let billing = bus.on(ORDERS, "billing", handler.clone()).dead_letter("orders.dlq").spawn().await.unwrap();
        let audit =
            bus.on(ORDERS, "audit", handler).start(Start::Latest).dead_letter("audit.dlq").spawn().await.unwrap();
        billing.idle().await.unwrap();
        audit.idle().await.unwrap();
        log.close().await.unwrap();
    });
    let expected = [1, 3, 5].map(|number| (("billing".to_owned(), format!("order {number}")), 1));
    assert_eq!(*handled.lock().unwrap(), BTreeMap::from(expected), "once, and no other group");
}

#[test]
fn what_is_purged_is_open_no_more() {
    let annals = with_letters();
    let question = "purge 3 dead letters of group billing? Nobody can be asked here; add --yes";
    annals.run(&["dead-letters", "purge", "billing", "orders.dlq", "--all"]).fails(2, question);
    annals.run(&["dead-letters", "purge", "billing", "orders.dlq", "0:1"]).fails(2, "purge 1 dead letter of group");
    assert_eq!(open_ones(&annals).len(), 3);
    let said = annals.run(&["dead-letters", "purge", "billing", "orders.dlq", "0:2", "0:0", "--yes"]).ok();
    assert_eq!(said, "2 dead letters of group billing are purged\n");
    assert_eq!(open_ones(&annals), ["order 3"]);
    annals.run(&["dead-letters", "purge", "billing", "orders.dlq", "0:0", "--yes"]).fails(5, "no open dead letter");
    let said = annals.run(&["dead-letters", "purge", "billing", "orders.dlq", "--all", "--yes"]).ok();
    assert_eq!(said, "1 dead letter of group billing is purged\n");
    assert!(open_ones(&annals).is_empty());
    // The records are there all the same.
    assert_eq!(annals.json(&["cat", "orders.dlq"]).len(), 3);
}

#[test]
fn what_changes_dead_letters_needs_the_log_to_itself() {
    let annals = Annals::new();
    let runtime = runtime();
    let log = runtime.block_on(failing(&annals));
    annals.run(&["dead-letters", "replay", "billing", "orders.dlq", "--all"]).fails(4, "nothing was replayed: ");
    annals.run(&["dead-letters", "purge", "billing", "orders.dlq", "--all", "--yes"]).fails(4, "nothing was purged: ");
    assert_eq!(open_ones(&annals).len(), 3);
    runtime.block_on(log.close()).unwrap();
}

#[test]
fn dead_letters_say_what_is_wrong_with_their_arguments() {
    let annals = with_letters();
    for wrong in [
        &["dead-letters"][..],
        &["dead-letters", "nonsense"],
        &["dead-letters", "list", "billing"],
        &["dead-letters", "list", "", "orders.dlq"],
        &["dead-letters", "list", "billing", "orders.dlq", "--max", "0"],
        &["dead-letters", "show", "billing", "orders.dlq"],
        &["dead-letters", "show", "billing", "orders.dlq", "0"],
        &["dead-letters", "show", "billing", "orders.dlq", "0", "-1"],
        &["dead-letters", "replay", "billing", "orders.dlq"],
        &["dead-letters", "replay", "billing", "orders.dlq", "0"],
        &["dead-letters", "replay", "billing", "orders.dlq", "0:x"],
        &["dead-letters", "replay", "billing", "orders.dlq", "0:0", "--all"],
        &["dead-letters", "replay", "billing", "orders.dlq", "--all", "--yes"],
        &["dead-letters", "purge", "billing", "orders.dlq", "--yes"],
        &["dead-letters", "purge", "billing", "orders.dlq", "0:0", "--all", "--yes"],
    ] {
        let answer = annals.run(wrong);
        assert_eq!(answer.code, 2, "{wrong:?}: {answer:?}");
        assert!(!answer.err.is_empty() && !answer.err.contains("panicked"), "{wrong:?}: {answer:?}");
    }
    assert_eq!(open_ones(&annals).len(), 3);
    for subcommand in ["list", "show", "replay", "purge"] {
        let help = annals.run(&["dead-letters", subcommand, "--help"]).ok();
        assert!(help.contains(&format!("annals -d data dead-letters {subcommand}")), "{help}");
        assert!(annals.run(&["man", "dead-letters", subcommand]).ok().contains(".TH"));
    }
}
