//! What the threads of a member tell each other. No brokers are asked.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Cluster;
use super::committer::Committer;
use super::desk::{Desk, Part, Place, Wish};
use super::member::Member;
use crate::consumer::Item;
use crate::error::{ErrorKind, Result};
use crate::group::progress::Progress;
use crate::handle::LogBuilder;
use crate::kafka::KafkaConfig;
use crate::record::{Headers, Message};
use crate::storage::clock::SystemClock;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);

fn place(partition: i32) -> Place {
    ("t".into(), partition)
}

/// A desk with so many partitions of which nothing is done.
fn desk(partitions: i32) -> Arc<Desk> {
    let desk = Arc::new(Desk::new("group", Arc::new(SystemClock)));
    desk.tell(|state| {
        for partition in 0..partitions {
            state.parts.insert(place(partition), Part::new(1, Progress::at(0)));
        }
    });
    desk
}

fn finish(desk: &Desk, offset: u64) {
    desk.tell(|state| {
        state.parts.get_mut(&place(0)).unwrap().finish(offset);
        state.soon = true;
    });
}

/// A committer whose brokers nobody has ever seen.
fn committer(desk: &Arc<Desk>) -> Committer {
    let config = KafkaConfig::new("127.0.0.1:9");
    let cluster = Cluster::new(config.clone(), &LogBuilder::default().in_memory().unwrap()).unwrap();
    let member = Arc::new(Member::new(&config, desk, None, LONG).unwrap());
    Committer { cluster, desk: Arc::clone(desk), member, id: "annals-test".into(), writer: None }
}

fn wish(desk: &Desk, offset: u64) -> oneshot::Receiver<Result<()>> {
    let (answer, answered) = oneshot::channel();
    desk.tell(|state| {
        state.wishes.push_back(Wish { place: place(0), offset, records: Vec::new(), answer });
    });
    answered
}

/// Somebody waits for partitions to be handed back. Tells how long it took.
fn handing_back(desk: &Arc<Desk>) -> thread::JoinHandle<Duration> {
    let there = Arc::clone(desk);
    let waiting = thread::spawn(move || {
        let began = there.clock.monotonic();
        there.hand_back(LONG);
        there.clock.monotonic() - began
    });
    while !desk.is_asked() {
        thread::yield_now();
    }
    waiting
}

/// Whoever does not know what became of one commit makes no other: it would say less than the first, and the brokers would have the
/// last word.
#[test]
fn nothing_is_committed_before_it_is_known_what_is() {
    let desk = desk(1);
    finish(&desk, 3);
    desk.tell(|state| state.rewind = true);
    let answers = [wish(&desk, 0), wish(&desk, 1)];
    let began = desk.clock.monotonic();
    let waiting = handing_back(&desk);
    desk.next(std::task::Waker::noop(), false);
    let committer = committer(&desk);
    let committing = thread::spawn(move || committer.run());
    for answer in answers {
        let error = answer.blocking_recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    }
    // Nobody waits for what will not be said.
    assert!(waiting.join().unwrap() < LONG / 2);
    // Who has lost what was done says so, however little.
    desk.tell(|state| state.stop = true);
    let error = committing.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!desk.lock().soon && !desk.lock().parts.values().all(Part::is_said));
    assert!(desk.clock.monotonic() - began < LONG / 2, "brokers were asked");
}

/// A member that ends while partitions are shared out anew says what is done before they go.
#[test]
fn who_ends_hands_back_what_is_said() {
    let begin = || {
        let desk = desk(1);
        finish(&desk, 0);
        let waiting = handing_back(&desk);
        desk.tell(|state| state.stop = true);
        thread::sleep(SHORT);
        assert!(!waiting.is_finished(), "what is done is not committed");
        (desk, waiting)
    };
    let (desk, waiting) = begin();
    desk.tell(|state| state.committing = true);
    desk.tell(|state| state.parts.values_mut().for_each(|part| part.committed = part.version));
    thread::sleep(SHORT);
    assert!(!waiting.is_finished(), "outputs are being committed");
    desk.tell(|state| state.committing = false);
    assert!(waiting.join().unwrap() < LONG / 2);
    // Nobody says it any more.
    let (desk, waiting) = begin();
    drop(committer(&desk));
    assert!(waiting.join().unwrap() < LONG / 2);
}

/// Puts so many events before the driver.
fn deliver(desk: &Desk, partition: u32, offsets: std::ops::Range<u64>) {
    let topic = Arc::new("t".into());
    for offset in offsets {
        desk.deliver(Message {
            topic: Arc::clone(&topic),
            partition,
            offset,
            commit: 0,
            timestamp_micros: 0,
            key: None,
            headers: Headers::new(),
            value: None,
        });
    }
}

/// What waits of one partition counts for that partition only, up to a bound.
#[test]
fn a_full_partition_does_not_fill_the_others() {
    let desk = desk(6);
    deliver(&desk, 0, 0..1000);
    assert!(desk.lock().is_full());
    assert_eq!(desk.lock().stand_still(), [place(0)]);
    assert!(!desk.lock().is_full());
    assert!(desk.lock().go_on(&[place(0)]).is_empty());
    deliver(&desk, 1, 0..400);
    assert!(!desk.lock().is_full());
    // It goes on once what waits is little with it.
    let waker = std::task::Waker::noop();
    for _ in 0..899 {
        let Some(Ok(Item::Message(message))) = desk.next(waker, true) else { panic!("nothing waits") };
        desk.finish(&message).unwrap();
    }
    assert!(desk.lock().go_on(&[place(0)]).is_empty());
    let Some(Ok(Item::Message(message))) = desk.next(waker, true) else { panic!("nothing waits") };
    assert_eq!((message.partition, message.offset), (0, 899));
    assert_eq!(desk.lock().go_on(&[place(0)]), [place(0)]);
    deliver(&desk, 2, 0..500);
    assert!(desk.lock().is_full());
    assert_eq!(desk.lock().stand_still().len(), 3);
    // Somewhere it ends.
    for partition in 3..6_u8 {
        assert!(!desk.lock().is_full());
        deliver(&desk, partition.into(), 0..1000);
        assert_eq!(desk.lock().stand_still(), [place(partition.into())]);
    }
    assert!(desk.lock().is_full());
    // A partition that is somebody else's does not stand.
    desk.let_go();
    assert!(!desk.lock().is_full());
    assert_eq!(desk.lock().go_on(&[place(5)]), [place(5)]);
}
