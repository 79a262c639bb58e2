//! The projections of an open log: one of a name, all of them closed with it.

use std::sync::{Arc, Mutex, Weak};

use super::shared::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::log::engine::Engine;
use crate::log::extension::Extension;
use crate::segment::lock;

/// The projections of one log.
#[derive(Debug, Default)]
pub(super) struct Projections {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    there: Vec<Weak<Shared>>,
    closed: bool,
}

impl Projections {
    /// The ones of this log.
    pub(super) fn of(engine: &Engine) -> Result<Arc<Self>> {
        engine.extensions.get_or_init(Self::default).ok_or_else(Error::closed)
    }

    /// Has a projection opened, if there is none of this name. One at a time: none is missed when the log closes.
    pub(super) fn open(&self, name: &str, open: impl FnOnce() -> Result<Arc<Shared>>) -> Result<Arc<Shared>> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Error::closed());
        }
        state.there.retain(|shared| shared.strong_count() > 0);
        let open_views = state.there.iter().filter_map(Weak::upgrade);
        if open_views.filter(|shared| lock(&shared.view).is_some()).any(|shared| shared.name.eq_ignore_ascii_case(name))
        {
            return Err(Error::new(ErrorKind::Locked, format!("projection {name} runs already")));
        }
        let shared = open()?;
        state.there.push(Arc::downgrade(&shared));
        Ok(shared)
    }

    fn there(&self) -> Vec<Arc<Shared>> {
        lock(&self.state).there.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Extension for Projections {
    fn checkpointed(&self, _: &Engine) {
        // Opening one takes its time, and the upkeep of the log is not to wait for that.
        let there = self.state.try_lock().map(|state| state.there.clone()).unwrap_or_default();
        there.iter().filter_map(Weak::upgrade).for_each(|shared| shared.ask(|status| status.wanted.flush = true));
    }

    fn closing(&self, _: &Engine) {
        lock(&self.state).closed = true;
        self.there().iter().for_each(|shared| shared.close());
    }
}
