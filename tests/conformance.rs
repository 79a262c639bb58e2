//! Every kind of bus does what a bus must do.

use annals::testing::conformance;
use annals::{BusSettings, Compression, Durability, Log, TopicSettings};

#[tokio::test]
async fn a_bus_in_memory_conforms() {
    conformance::all(async || Ok(Log::in_memory()?.bus())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_on_the_disk_conforms() {
    conformance::all(async || Ok(Log::temporary()?.bus())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relaxed_and_compressed_bus_of_an_environment_conforms() {
    let topics = TopicSettings::default().durability(Durability::Os).compression(Compression::Lz4);
    let settings = BusSettings::default().environment("dev").topic_defaults(topics);
    conformance::all(async || Log::temporary()?.bus_with(settings.clone())).await.unwrap();
}

/// The suite finds what does not conform.
#[tokio::test]
async fn a_bus_without_topics_does_not_conform() {
    let strict = BusSettings::default().create_topics(false);
    let failure = conformance::all(async || Log::in_memory()?.bus_with(strict.clone())).await.unwrap_err();
    assert_eq!(failure.case, "an_event_reaches_every_group");
    assert!(failure.to_string().contains("numbers"), "{failure}");
}
