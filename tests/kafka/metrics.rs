//! What a mirror and a source export, held against what they have done.

use annals::Log;
use annals::mirror::{KafkaConfig, Source};

use crate::mirror::world::{World, caught_up, paused};
use crate::support::{Broker, until};

#[path = "../support/kept.rs"]
mod kept;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mirror_and_a_source_have_done_is_exported() {
    let Some(broker) = Broker::shared() else { return };
    let kept = kept::Kept::default();
    // Theirs are threads of their own. Nothing else in this process exports anything.
    metrics::set_global_recorder(kept.clone()).unwrap();
    let world = World::new(broker);
    for topic in ["orders", "nowhere"] {
        world.topic(topic, 1).await;
        world.publish(topic, 30).await;
    }
    broker.create_topic_with(&world.target("orders"), 1, -1, &[("retention.ms", "-1")]).await;
    let mirror = world.bare_mirror().export_metrics().spawn().unwrap();
    paused(&mirror, "nowhere", 0).await;
    caught_up(&mirror).await;
    let (name, other) = (&world.name, Log::in_memory().unwrap());
    let source = Source::builder(&other).name(name).topics([&*world.target("orders")]);
    let source = source.from(KafkaConfig::new(broker.bootstrap())).create_topics(Default::default());
    let source = source.export_metrics().spawn().unwrap();
    let is = |name: String, value: f64| kept.all_or_none(&name) == [value];
    let expected = [
        (format!("annals_mirror_forwarded_total{{mirror={name}}}"), 30.0),
        (format!("annals_mirror_paused_partitions{{mirror={name}}}"), 1.0),
        (format!("annals_mirror_errors_total{{mirror={name},class=partition}}"), 1.0),
        (format!("annals_mirror_lag_records{{mirror={name},topic=orders,partition=0}}"), 0.0),
        (format!("annals_mirror_lag_records{{mirror={name},topic=nowhere,partition=0}}"), 30.0),
        (format!("annals_source_received_total{{source={name}}}"), 30.0),
        (format!("annals_source_passed_over_total{{source={name}}}"), 0.0),
        (format!("annals_source_paused_partitions{{source={name}}}"), 0.0),
        (format!("annals_source_lag_records{{source={name},topic={},partition=0}}", world.target("orders")), 0.0),
    ];
    for (metric, value) in expected {
        until(&format!("{metric} is {value}"), async || is(metric.clone(), value)).await;
    }
    source.stop().await.unwrap();
    mirror.stop().await.unwrap();
}
