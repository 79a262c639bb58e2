//! One mirror, and one source, of a name on a log in this process, where nothing else sees to it: no other process can have the log
//! open for writing.

use std::collections::BTreeSet;
use std::sync::Mutex;

use uuid::Uuid;

use super::shared::lock;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Log;

type Claim = (&'static str, Uuid, String);

static RUNNING: Mutex<BTreeSet<Claim>> = Mutex::new(BTreeSet::new());

/// Who has it is the only one, until it is dropped.
pub(super) struct Alone(Claim);

impl Alone {
    /// Claims a name for a `what` on this log.
    pub(super) fn claim(what: &'static str, log: &Log, name: &str) -> Result<Self> {
        let claim = (what, log.id(), name.to_owned());
        if !lock(&RUNNING).insert(claim.clone()) {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("{what} {name} of this log is running already; stop it first, or give this one another name"),
            ));
        }
        Ok(Self(claim))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        lock(&RUNNING).remove(&self.0);
    }
}
