//! What moves records between a log and a cluster, and how it is doing. It works on top of the log and is known to nobody else here.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::log::Log;
use crate::error::{Error, Result};
use crate::log::extension::Extension;

/// Which way records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LinkKind {
    /// A mirror: from the log into Kafka.
    Mirror,
    /// A source: from Kafka into the log.
    Source,
}

/// How a mirror or a source of a log in this process is doing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LinkHealth {
    /// Which of the two it is.
    pub kind: LinkKind,
    /// Its name.
    pub name: String,
    /// Whether it is at work; if not it has ended.
    pub running: bool,
    /// Whether somebody has paused it.
    pub paused: bool,
    /// Whether it could reach its cluster when it last had to.
    pub connected: bool,
    /// How many of its partitions are paused for an error.
    pub paused_partitions: u64,
    /// How many records it has not moved yet.
    pub lag_records: u64,
    /// Why it has ended, if it was not stopped; the last error that it has met as long as it is at work, also if it has passed.
    pub error: Option<Error>,
}

impl LinkHealth {
    /// What is wrong with it, if anything is.
    pub(crate) fn trouble(&self) -> Option<String> {
        let what = match self.kind {
            LinkKind::Mirror => "mirror",
            LinkKind::Source => "source",
        };
        let trouble = match &self.error {
            Some(error) if !self.running => format!("has ended: {error}"),
            _ if self.running && self.paused_partitions > 0 => {
                format!("has paused {} partitions for an error", self.paused_partitions)
            }
            Some(error) if !self.connected => format!("does not reach its cluster: {error}"),
            _ => return None,
        };
        Some(format!("{what} {} {trouble}", self.name))
    }
}

/// A mirror or a source.
pub(crate) trait Link: Debug + Send + Sync {
    fn health(&self) -> LinkHealth;
}

#[derive(Debug, Default)]
struct Links(Mutex<Vec<Weak<dyn Link>>>);

impl Extension for Links {}

impl Links {
    fn there(&self) -> MutexGuard<'_, Vec<Weak<dyn Link>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Shows it in the log's health for as long as somebody has it.
    pub(crate) fn show_link(&self, link: &Arc<impl Link + 'static>) -> Result<()> {
        let links = self.inner.engine.extensions.get_or_init(Links::default).ok_or_else(Error::closed)?;
        let mut links = links.there();
        links.retain(|link| link.strong_count() > 0);
        let link: Weak<dyn Link> = Arc::downgrade(link) as _;
        links.push(link);
        Ok(())
    }

    /// How the mirrors and sources of the log in this process are doing, by kind and name.
    pub(crate) fn links(&self) -> Vec<LinkHealth> {
        let Some(links) = self.inner.engine.extensions.get::<Links>() else { return Vec::new() };
        let there: Vec<_> = links.there().iter().filter_map(Weak::upgrade).collect();
        let mut found: Vec<_> = there.iter().map(|link| link.health()).collect();
        found.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Error, Link, LinkHealth, LinkKind};
    use crate::handle::Log;

    #[derive(Debug)]
    struct Fixed(LinkHealth);

    impl Link for Fixed {
        fn health(&self) -> LinkHealth {
            self.0.clone()
        }
    }

    fn link(kind: LinkKind, name: &str, change: impl FnOnce(&mut LinkHealth)) -> Arc<Fixed> {
        let mut health = LinkHealth {
            kind,
            name: name.to_owned(),
            running: true,
            paused: false,
            connected: true,
            paused_partitions: 0,
            lag_records: 0,
            error: None,
        };
        change(&mut health);
        Arc::new(Fixed(health))
    }

    #[test]
    fn those_that_are_there_are_shown_and_what_is_wrong_with_them() {
        let log = Log::in_memory().unwrap();
        assert!(log.links().is_empty());
        let error = || Some(Error::invalid("why"));
        let all = [
            link(LinkKind::Source, "s", |it| it.connected = false),
            link(LinkKind::Mirror, "m", |it| it.error = error()),
            link(LinkKind::Mirror, "ended", |it| (it.running, it.error) = (false, error())),
            link(LinkKind::Mirror, "stopped", |it| (it.running, it.paused_partitions) = (false, 1)),
            link(LinkKind::Mirror, "held", |it| (it.paused_partitions, it.error) = (2, error())),
            link(LinkKind::Source, "away", |it| (it.connected, it.error) = (false, error())),
        ];
        all.iter().for_each(|link| log.show_link(link).unwrap());
        let shown: Vec<_> = log.links().iter().map(|link| (link.name.clone(), link.trouble())).collect();
        let says = |name: &str, trouble: Option<&str>| (name.to_owned(), trouble.map(str::to_owned));
        assert_eq!(
            shown,
            [
                says("ended", Some("mirror ended has ended: why")),
                says("held", Some("mirror held has paused 2 partitions for an error")),
                says("m", None),
                says("stopped", None),
                says("away", Some("source away does not reach its cluster: why")),
                says("s", None),
            ]
        );
        drop(all);
        assert!(log.links().is_empty());
    }
}
