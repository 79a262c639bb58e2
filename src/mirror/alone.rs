//! One mirror, and one source, of a name on a log in this process, where nothing else sees to it: no other process can have the log
//! open for writing.

use std::collections::BTreeMap;
use std::sync::Mutex;

use uuid::Uuid;

use super::shared::lock;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Log;

type Claim = (&'static str, Uuid, String);

/// How many share it; 0 if it is somebody's alone.
static RUNNING: Mutex<BTreeMap<Claim, usize>> = Mutex::new(BTreeMap::new());

/// Who has it is the only one, or shares it with others of its kind, until it is dropped.
pub(super) struct Alone(Claim);

impl Alone {
    /// Claims a name for a `what` on this log.
    pub(super) fn claim(what: &'static str, log: &Log, name: &str) -> Result<Self> {
        Self::take(what, log, name, false)
    }

    /// Claims a name for one that may go on beside others that share it, but not beside one that has it alone.
    pub(super) fn share(what: &'static str, log: &Log, name: &str) -> Result<Self> {
        Self::take(what, log, name, true)
    }

    fn take(what: &'static str, log: &Log, name: &str, shares: bool) -> Result<Self> {
        let claim = (what, log.id(), name.to_owned());
        let mut running = lock(&RUNNING);
        match running.get_mut(&claim) {
            None => drop(running.insert(claim.clone(), usize::from(shares))),
            Some(sharers @ 1..) if shares => *sharers += 1,
            Some(_) => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "{what} {name} of this log is running already; stop it first, or give this one another name"
                    ),
                ));
            }
        }
        Ok(Self(claim))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let mut running = lock(&RUNNING);
        match running.get_mut(&self.0) {
            Some(sharers @ 2..) => *sharers -= 1,
            _ => drop(running.remove(&self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Alone;
    use crate::error::ErrorKind;
    use crate::handle::Log;

    #[test]
    fn a_name_is_shared_or_somebodys_alone() {
        let log = Log::in_memory().unwrap();
        let (alone, shared) = (|| Alone::claim("it", &log, "name"), || Alone::share("it", &log, "name"));
        let one = alone().unwrap();
        for refused in [alone(), shared()] {
            assert_eq!(refused.err().unwrap().kind(), ErrorKind::Busy);
        }
        let _other = Alone::claim("it", &log, "other").unwrap();
        drop(one);
        let (first, second) = (shared().unwrap(), shared().unwrap());
        drop(first);
        assert!(alone().is_err());
        drop(second);
        drop(alone().unwrap());
    }
}
