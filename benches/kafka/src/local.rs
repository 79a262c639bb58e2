//! What a cluster that is not there costs whoever publishes locally.

use std::time::{Duration, Instant};

use annals::mirror::{KafkaConfig, Mirror, TargetTopics};
use annals::{Log, Raw, Record, TopicDef, TopicSettings};
use bytes::Bytes;

use crate::mirror::value;
use crate::{Result, Scale, row};

const TOPIC: TopicDef<Bytes, Raw> = TopicDef::new("local");
const SIZE: usize = 100;
/// Nobody listens there.
const DEAD: &str = "127.0.0.1:1";
/// In turns, so that whatever else the machine does meets both.
const TURNS: usize = 6;

pub(crate) fn run(scale: Scale) -> Result<()> {
    let mut ratios = Vec::new();
    for _ in 0..scale.rounds {
        let (mut alone, mut beside) = (0.0, 0.0);
        for _ in 0..TURNS {
            alone += publish(false, scale.local / TURNS as u32)?;
            beside += publish(true, scale.local / TURNS as u32)?;
        }
        ratios.push(beside / alone);
    }
    row("publishing with a mirror to a dead cluster, of without one", ratios, "(0.95)");
    Ok(())
}

/// Synced records of one thread, in batches; answers how many a second.
fn publish(mirrored: bool, time: Duration) -> Result<f64> {
    let log = Log::temporary()?;
    let topic = log.blocking_create_topic(TOPIC, TopicSettings::default())?;
    let mirror = match mirrored {
        true => Some(
            Mirror::builder(&log)
                .topics([TOPIC.name()])
                .to(KafkaConfig::new(DEAD))
                .create_topics(TargetTopics::default())
                .spawn()?,
        ),
        false => None,
    };
    let mut count = 0;
    let began = Instant::now();
    while began.elapsed() < time {
        topic.blocking_produce_batch((count..count + 100).map(|number| Record::new(value(number, SIZE))))?;
        count += 100;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    if let Some(mirror) = mirror {
        mirror.blocking_stop()?;
    }
    Ok(rate)
}
