//! Each contender has to deliver what it was given, also after it was closed and opened again: a figure of one that
//! loses records would be worth nothing.

use std::time::{Duration, Instant};

use crate::{
    contender::{Bar, Class, Contender, Entrant, Level, Result, Shape},
    load::{Load, Payloads, Tally},
    workspace::Workspace,
};

const RECORD_BYTES: usize = 100;

/// What the tally of a complete replay has to hold.
#[derive(Default)]
struct Expected {
    records: u64,
    folded: u8,
}

impl Expected {
    fn add<'a>(&mut self, payload: &'a [u8]) -> &'a [u8] {
        self.records += 1;
        self.folded ^= payload[0] ^ payload[RECORD_BYTES - 1];
        payload
    }
}

fn append_all_ways(log: &dyn Contender, expected: &mut Expected) -> Result<()> {
    let mut payloads = Payloads::new(RECORD_BYTES, 0);
    let mut producer = log.producer(0)?;
    for _ in 0..3 {
        producer.append_one(expected.add(payloads.one()))?;
    }
    let batch = payloads.batch(100);
    for payload in batch.records() {
        expected.add(payload);
    }
    producer.append_batch(batch)?;
    for _ in 0..250 {
        producer.send(expected.add(payloads.one()))?;
    }
    producer.settle()
}

fn check_replay(log: &dyn Contender, expected: &Expected) -> Result<()> {
    let mut tally = Tally::new(RECORD_BYTES, Instant::now() + Duration::from_secs(60));
    log.replay(&mut tally)?;
    assert_eq!(tally.records, expected.records);
    assert_eq!(tally.bytes, expected.records * RECORD_BYTES as u64);
    assert_eq!(tally.folded(), expected.folded);
    Ok(())
}

fn delivers(entrant: &Entrant, level: Level) -> Result<()> {
    let workspace = Workspace::new(&std::env::temp_dir())?;
    let dir = workspace.fresh()?;
    let mut expected = Expected::default();
    for _ in 0..2 {
        let log = (entrant.open)(&dir, level, Shape::ONE)?;
        check_replay(log.as_ref(), &expected)?;
        append_all_ways(log.as_ref(), &mut expected)?;
        check_replay(log.as_ref(), &expected)?;
        log.close()?;
    }
    Ok(())
}

#[test]
fn every_contender_delivers_what_it_was_given() -> Result<()> {
    for entrant in super::all().filter(|entrant| entrant.class != Class::Raw && entrant.offers(Bar::P6)) {
        for (level, bar) in [(Level::PageCache, Bar::P2), (Level::Durable, Bar::P3)] {
            if entrant.offers(bar) {
                delivers(entrant, level).map_err(|error| format!("{}: {error}", entrant.name))?;
            }
        }
    }
    Ok(())
}

#[test]
fn every_racer_acknowledges_to_each_of_64_producers() -> Result<()> {
    for (bar, shape) in [(Bar::P4, Shape::ONE), (Bar::P15, Shape::SPREAD)] {
        for entrant in super::all().filter(|entrant| entrant.offers(bar)) {
            let workspace = Workspace::new(&std::env::temp_dir())?;
            let log = (entrant.open)(&workspace.fresh()?, Level::Durable, shape)?;
            let paces = log.race(&Load::new(64, RECORD_BYTES, Duration::from_millis(300)))?;
            assert_eq!(paces.len(), 64, "{}", entrant.name);
            log.close()?;
        }
    }
    Ok(())
}
