//! What memory a mirror takes while it catches up, with a small and with a large window.

use annals::mirror::{KafkaConfig, Mirror, TargetTopics};
use annals::{Log, Raw, Record, TopicDef, TopicSettings};
use bytes::Bytes;

use crate::broker::Broker;
use crate::mirror::{PARTITIONS, key, value};
use crate::{Result, Scale, row};

const TOPIC: TopicDef<Bytes, Raw> = TopicDef::new("backlog");
const SIZE: usize = 1024;
const BATCH: u64 = 1000;

pub(crate) fn run(broker: &Broker, scale: Scale) -> Result<()> {
    // On a disk: what the process takes is the mirror's then.
    let log = Log::temporary()?;
    let topic = log.blocking_create_topic(TOPIC, TopicSettings::default().partitions(PARTITIONS))?;
    let records = scale.bytes / SIZE as u64 / BATCH * BATCH;
    for first in (0..records).step_by(BATCH as usize) {
        topic.blocking_produce_batch(
            (first..first + BATCH).map(|number| Record::new(value(number, SIZE)).key(key(number))),
        )?;
    }
    for window in [4 << 20, 32 << 20] {
        // The peak begins anew from here on (proc(5)).
        std::fs::write("/proc/self/clear_refs", "5")?;
        let before = memory_mib("VmRSS:")?;
        let name = broker.unique("memory");
        let mirror = Mirror::builder(&log)
            .name(&name)
            .topics([TOPIC.name()])
            .to(KafkaConfig::new(&broker.servers))
            .prefix(format!("{name}."))
            .create_topics(TargetTopics::default())
            .in_flight_bytes_max(window)
            .spawn()?;
        mirror.blocking_caught_up()?;
        let peak = memory_mib("VmHWM:")?;
        mirror.blocking_stop()?;
        let what =
            format!("memory that {} MiB of backlog take at most, window of {} MiB", scale.bytes >> 20, window >> 20);
        row(&what, vec![peak - before], "MiB");
    }
    Ok(())
}

/// What the system says of this process.
fn memory_mib(line: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let found = status.lines().find_map(|found| found.strip_prefix(line)).ok_or("the system does not say")?;
    let kib: f64 = found.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
