//! Nobody is woken where nobody follows: that must not cost a follower its wake-up, whenever it began.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use annals::{Durability, Log, Raw, RecordRef, Start, TopicDef, TopicSettings};
use bytes::Bytes;

/// Longer than anything here takes, however busy the machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
const DEF: TopicDef<Bytes, Raw> = TopicDef::new("t");

fn soon<T>(from: &Receiver<T>) -> T {
    from.recv_timeout(PATIENCE).unwrap()
}

/// Both begin at once, and there is but one record: a follower that misses it sleeps for ever.
#[test]
fn who_begins_to_follow_during_the_only_append_hears_of_it() {
    for durability in [Durability::Os, Durability::Sync] {
        for partitions in [1, 2] {
            let settings = TopicSettings::default().partitions(partitions).durability(durability);
            for _ in 0..100 {
                let log = Log::in_memory().unwrap();
                let topic = log.blocking_create_topic(DEF, settings.clone()).unwrap();
                let (begin, began) = channel();
                let (read, has_read) = channel();
                let follower = thread::spawn({
                    let topic = topic.clone();
                    move || {
                        begin.send(()).unwrap();
                        let mut replay = topic.replay(Start::Earliest).follow().blocking().unwrap();
                        read.send(replay.next().unwrap().map(|record| record.offset())).unwrap();
                    }
                });
                soon(&began);
                topic.blocking_produce_ref(RecordRef::new("v").key("k")).unwrap();
                assert_eq!(soon(&has_read), Some(0));
                follower.join().unwrap();
            }
        }
    }
}

/// The follower sleeps between any two records, and the next is sent only once it has read the last.
#[test]
fn who_sleeps_is_woken_by_each_record() {
    for durability in [Durability::Os, Durability::Sync] {
        let log = Log::in_memory().unwrap();
        let topic = log.blocking_create_topic(DEF, TopicSettings::default().durability(durability)).unwrap();
        let (read, has_read) = channel();
        let follower = thread::spawn({
            let topic = topic.clone();
            move || {
                let mut replay = topic.replay(Start::Earliest).follow().blocking().unwrap();
                for _ in 0..2_000 {
                    read.send(replay.next().unwrap().unwrap().offset()).unwrap();
                }
            }
        });
        for offset in 0..2_000 {
            topic.blocking_produce_ref(RecordRef::new("v")).unwrap();
            assert_eq!(soon(&has_read), offset);
        }
        follower.join().unwrap();
    }
}
