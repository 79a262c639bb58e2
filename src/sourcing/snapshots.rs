//! The snapshots of an open log, in their view.

use std::sync::{Arc, Mutex};

use crate::log::engine::Engine;
use crate::log::extension::Extension;
use crate::segment::lock;
use crate::views::snapshots::{Of, Saved, SnapshotView};

/// The snapshots of one log.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    view: Mutex<View>,
}

#[derive(Debug, Default)]
enum View {
    /// Not needed yet.
    #[default]
    Unopened,
    Open(SnapshotView),
    Closed,
}

impl Snapshots {
    /// The ones of this log; `None` once that is closed.
    pub(super) fn of(engine: &Engine) -> Option<Arc<Self>> {
        engine.extensions.get_or_init(Self::default)
    }

    /// The snapshot, if there is one that is whole. Whether it is of records that are there is not looked at.
    pub(super) fn load(&self, engine: &Engine, of: Of<'_>) -> Option<Saved> {
        let mut view = lock(&self.view);
        view.open(engine)?.load(of).unwrap_or_else(|error| {
            tracing::warn!(%error, "a snapshot is made again");
            None
        })
    }

    pub(super) fn save(&self, engine: &Engine, of: Of<'_>, saved: &Saved) {
        let mut view = lock(&self.view);
        if let Some(view) = view.open(engine)
            && let Err(error) = view.save(of, saved)
        {
            tracing::warn!(%error, "a snapshot was not saved");
        }
    }

    fn flush(&self) {
        if let View::Open(view) = &mut *lock(&self.view)
            && let Err(error) = view.flush()
        {
            tracing::warn!(%error, "snapshots were not saved");
        }
    }
}

impl View {
    /// The view, opened by the first call; in memory where it cannot be kept.
    fn open(&mut self, engine: &Engine) -> Option<&mut SnapshotView> {
        if let Self::Unopened = self {
            let kept = engine.env.storage.is_file_system() && !engine.is_read_only();
            let opened = if kept {
                SnapshotView::open(&engine.env, &engine.root, engine.id)
            } else {
                Ok(SnapshotView::in_memory())
            };
            let mut view = opened.unwrap_or_else(|error| {
                tracing::warn!(%error, "snapshots are kept in memory only");
                SnapshotView::in_memory()
            });
            let topics = engine.topics();
            if let Err(error) = view.retain(|(id, _)| topics.iter().any(|topic| topic.id == id)) {
                tracing::warn!(%error, "snapshots are made again");
            }
            *self = Self::Open(view);
        }
        match self {
            Self::Open(view) => Some(view),
            Self::Unopened | Self::Closed => None,
        }
    }
}

impl Extension for Snapshots {
    fn checkpointed(&self, _: &Engine) {
        self.flush();
    }

    fn closing(&self, _: &Engine) {
        self.flush();
        // Whoever opens the log next opens the view, too.
        *lock(&self.view) = View::Closed;
    }
}
