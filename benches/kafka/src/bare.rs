//! The producer that the mirror is compared with: the client library by itself, with the settings that the mirror gives it, the same
//! records in the same order, and transactions as long as the mirror's. Its records lie ready in memory.

use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::Result;
use crate::broker::Broker;
use crate::mirror::{PARTITIONS, Workload, key, value};

const WAIT: Duration = Duration::from_secs(30);
/// As long as the mirror's transactions, and with as many bytes.
const TRANSACTION: Duration = Duration::from_millis(100);
const IN_FLIGHT_BYTES: usize = 32 << 20;
const LOOK: Duration = Duration::from_micros(500);

pub(crate) fn run(broker: &Broker, workload: &Workload, headers: bool) -> Result<f64> {
    let topic = broker.unique("bare");
    let admin: AdminClient<DefaultClientContext> = broker.client().create()?;
    let new = NewTopic::new(&topic, PARTITIONS as i32, TopicReplication::Fixed(1));
    let made = admin.create_topics([&new], &AdminOptions::new());
    block_on(made)?;
    let producer: BaseProducer = broker
        .client()
        .set("transactional.id", &topic)
        .set("delivery.report.only.error", "true")
        .set("queue.buffering.max.kbytes", (IN_FLIGHT_BYTES / 1024).to_string())
        .set("queue.buffering.max.messages", "500000")
        .set("message.max.bytes", IN_FLIGHT_BYTES.to_string())
        .create()?;
    producer.init_transactions(WAIT)?;
    let id = workload.log.id().to_string();
    let records: Vec<(i32, String, Bytes)> = (0..workload.records)
        .map(|number| ((number % u64::from(PARTITIONS)) as i32, key(number), value(number, workload.size)))
        .collect();
    // The connection is there before the clock starts.
    producer.begin_transaction()?;
    for partition in 0..PARTITIONS as i32 {
        let first = BaseRecord::<str, [u8]>::to(&topic).partition(partition).key("first").payload(b"first");
        producer.send(first).map_err(|(error, _)| error)?;
    }
    commit(&producer)?;

    let now = UNIX_EPOCH.elapsed()?.as_millis() as i64;
    let began = Instant::now();
    let (mut opened, mut bytes, mut open) = (began, 0, false);
    for (number, (partition, key, value)) in records.iter().enumerate() {
        if !open {
            producer.begin_transaction()?;
            (opened, bytes, open) = (Instant::now(), 0, true);
        }
        let mut record = BaseRecord::to(&topic).partition(*partition).key(key).payload(&value[..]).timestamp(now);
        if headers {
            record = record.headers(origin(&id, *partition, number));
        }
        while let Err((error, back)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(rdkafka::error::RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            producer.poll(Duration::ZERO);
            std::thread::sleep(LOOK);
            record = back;
        }
        bytes += key.len() + value.len();
        if number % 256 == 0 {
            producer.poll(Duration::ZERO);
            if bytes >= IN_FLIGHT_BYTES || opened.elapsed() >= TRANSACTION {
                commit(&producer)?;
                open = false;
            }
        }
    }
    if open {
        commit(&producer)?;
    }
    Ok(records.len() as f64 / began.elapsed().as_secs_f64())
}

/// `commit_transaction` alone would wait in steps of 100 ms for what is under way, and `flush` keep a processor busy.
fn commit(producer: &BaseProducer) -> Result<()> {
    let began = Instant::now();
    while producer.flush(Duration::ZERO).is_err() {
        if began.elapsed() > WAIT {
            return Err("the broker does not take what it was sent".into());
        }
        std::thread::sleep(LOOK);
    }
    Ok(producer.commit_transaction(WAIT)?)
}

/// The headers that the mirror adds.
fn origin(log: &str, partition: i32, offset: usize) -> OwnedHeaders {
    OwnedHeaders::new_with_capacity(4)
        .insert(Header { key: "annals.origin.log", value: Some(log) })
        .insert(Header { key: "annals.origin.topic", value: Some("events") })
        .insert(Header { key: "annals.origin.partition", value: Some(&partition.to_string()) })
        .insert(Header { key: "annals.origin.offset", value: Some(&offset.to_string()) })
}

/// Waits for the client library's own thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(answer) = future.as_mut().poll(&mut cx) {
            return answer;
        }
        std::thread::park();
    }
}
