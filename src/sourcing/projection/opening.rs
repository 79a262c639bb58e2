//! Opening a projection: what there is of it is held against the log, and its thread is started.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::Builder;

use super::builder::ProjectionBuilder;
use super::handle::Projection;
use super::registry::Projections;
use super::shared::{Phase, Rebuild, Shared, Status, Wanted};
use super::worker::Worker;
use crate::error::{Error, Result, Rewound};
use crate::log::engine::Engine;
use crate::log::names::validate_topic_name;
use crate::log::topic::TopicState;
use crate::segment::lock;
use crate::sourcing::place::{self, Read};
use crate::text::quoted;
use crate::views::state::{Place, Said, StateView, Whose};

pub(super) fn open(builder: ProjectionBuilder) -> Result<Projection> {
    let log = Arc::clone(&builder.log);
    let name = builder.name.clone();
    log.engine.check_open()?;
    validate_topic_name(&name).map_err(|_| {
        Error::invalid(format!(
            "{} cannot be the name of a projection: it must be one that a topic could have",
            quoted(&name)
        ))
    })?;
    let mut topics: Vec<Arc<TopicState>> = Vec::new();
    for handler in &builder.handlers {
        let topic = log.engine.topic(&handler.topic)?;
        if !topics.iter().any(|known| Arc::ptr_eq(known, &topic)) {
            topics.push(topic);
        }
    }
    if topics.is_empty() {
        return Err(Error::invalid(format!("projection {name} follows no topic: say what it does `on` one")));
    }
    // The order of the log, whatever that of the functions: it decides between records of one commit.
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let registry = Projections::of(&log.engine)?;
    let shared = registry.open(&name, || start(builder, topics))?;
    Ok(Projection::new(shared, log))
}

/// What a projection is of, as it stands in the view.
fn definition(name: &str, version: u32, topics: &[Arc<TopicState>]) -> Vec<u8> {
    let mut definition = version.to_le_bytes().to_vec();
    definition.extend(topics.iter().flat_map(|topic| topic.id.to_le_bytes()));
    definition.extend_from_slice(name.as_bytes());
    definition
}

fn start(builder: ProjectionBuilder, topics: Vec<Arc<TopicState>>) -> Result<Arc<Shared>> {
    let engine = &builder.log.engine;
    let definition = definition(&builder.name, builder.version, &topics);
    let mut view = open_view(engine, &builder.name)?;
    let (said, rebuild) = match view.load() {
        Err(_) => (None, Some(Rebuild::Damaged)),
        Ok(None) => (None, Some(Rebuild::New)),
        Ok(Some(said)) => match differs(&said, &definition, &topics)? {
            None => (Some(said), None),
            Some(why) => {
                view.set_aside(&why.to_string())?;
                (None, Some(why))
            }
        },
    };
    if let Some(why) = &rebuild {
        tracing::info!(projection = builder.name, why = %why, "a projection is built from the log");
    }
    let (generation, complete) = (view.generation(), said.as_ref().is_some_and(|said| said.complete));
    let places: HashMap<Whose, Place> = said.into_iter().flat_map(|said| said.places).collect();
    let status = Status {
        phase: if complete { Phase::Following } else { Phase::Building },
        read_below: 0,
        places: places.clone(),
        done: 0,
        rebuild,
        generation,
        wanted: Wanted::default(),
    };
    let shared = Arc::new(Shared::new(builder.name.clone(), topics, view, status));
    let worker = Worker::new(Arc::clone(&shared), builder, definition, places, generation, complete);
    let thread = Builder::new()
        .name("annals-projection".into())
        .spawn(move || worker.main_guarded())
        .map_err(|error| Error::io("cannot start the thread of a projection", error))?;
    *lock(&shared.thread) = Some(thread);
    Ok(shared)
}

fn open_view(engine: &Engine, name: &str) -> Result<StateView> {
    if engine.is_read_only() || !engine.env.storage.is_file_system() {
        return Ok(StateView::in_memory());
    }
    StateView::open(&engine.env, &engine.root, name, engine.id)
}

/// Why what there is cannot be used, if it cannot.
fn differs(said: &Said, definition: &[u8], topics: &[Arc<TopicState>]) -> Result<Option<Rebuild>> {
    if said.definition != definition {
        return Ok(Some(Rebuild::Definition));
    }
    for ((topic_id, number), place) in &said.places {
        let Some(topic) = topics.iter().find(|topic| topic.id == *topic_id) else {
            return Ok(Some(Rebuild::Definition));
        };
        let (from, to) = match topic.partition(*number) {
            // The log had more partitions once.
            Err(_) => (place.next_offset, 0),
            Ok(partition) => {
                let read = Read { next_offset: place.next_offset, commit: place.commit, crc: place.crc };
                match place::differs_at(&partition, read)? {
                    None => continue,
                    Some(to) => (place.next_offset, to),
                }
            }
        };
        let rewound = Rewound { topic: topic.name.to_string(), partition: *number, from, to };
        return Ok(Some(Rebuild::Rewound(rewound)));
    }
    Ok(None)
}
