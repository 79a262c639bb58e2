//! How far the mirror is behind at a steady rate.

use std::time::{Duration, Instant};

use annals::mirror::{KafkaConfig, Mirror, TargetTopics};
use annals::{Log, Raw, Record, TopicDef, TopicSettings};
use bytes::Bytes;

use crate::broker::Broker;
use crate::mirror::{PARTITIONS, key, value};
use crate::{Result, Scale};

const TOPIC: TopicDef<Bytes, Raw> = TopicDef::new("steady");
const RATE: u64 = 100_000;
const SIZE: usize = 100;
/// So often a batch is published.
const TICK: Duration = Duration::from_millis(10);

pub(crate) fn run(broker: &Broker, scale: Scale) -> Result<()> {
    let log = Log::temporary()?;
    let topic = log.blocking_create_topic(TOPIC, TopicSettings::default().partitions(PARTITIONS))?;
    let name = broker.unique("steady");
    let mirror = Mirror::builder(&log)
        .name(&name)
        .topics([TOPIC.name()])
        .to(KafkaConfig::new(&broker.servers))
        .prefix(format!("{name}."))
        .create_topics(TargetTopics::default())
        .spawn()?;
    topic.blocking_produce(Record::new(value(0, SIZE)))?;
    mirror.blocking_caught_up()?;
    let batch = RATE * TICK.as_millis() as u64 / 1000;
    let began = Instant::now();
    let (mut lags, mut published, mut late) = (Vec::new(), 0, 0);
    while began.elapsed() < scale.steady {
        let due = began + TICK * (published / batch) as u32;
        match due.checked_duration_since(Instant::now()) {
            Some(wait) => std::thread::sleep(wait),
            None => late += 1,
        }
        topic.blocking_produce_batch(
            (published..published + batch).map(|number| Record::new(value(number, SIZE)).key(key(number))),
        )?;
        published += batch;
        lags.push(mirror.status().lag().as_secs_f64() * 1000.0);
    }
    let rate = published as f64 / began.elapsed().as_secs_f64();
    let waited = Instant::now();
    mirror.blocking_caught_up()?;
    let last = waited.elapsed();
    mirror.blocking_stop()?;
    lags.sort_by(f64::total_cmp);
    let at = |part: f64| lags[((lags.len() - 1) as f64 * part) as usize];
    println!(
        "| lag at {:.0} k records/s of {SIZE} B, synced: median, p99, most | {:.0} | {:.0} | {:.0} | ms; {:.0} ms after the last; {late} batches late |",
        rate / 1000.0,
        at(0.5),
        at(0.99),
        at(1.0),
        last.as_secs_f64() * 1000.0
    );
    Ok(())
}
