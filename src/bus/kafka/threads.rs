//! The two threads of a subscription, watched over: its driver would wait for ever for one that is there no more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::desk::Desk;
use crate::error::{Error, ErrorKind, Result};

/// Ends the subscription when it goes: kept by the thread that commits, which goes before its time only if it panics.
pub(super) struct EndsWithIt(pub(super) Arc<Desk>);

impl Drop for EndsWithIt {
    fn drop(&mut self) {
        // Nobody is to wait for a commit that was under way.
        self.0.tell(|state| (state.stop, state.committing, state.saying) = (true, false, false));
    }
}

/// Reads until the subscription ends, and waits for the thread that commits. Answers whether all that was done is committed.
pub(super) fn attend(desk: &Desk, committing: JoinHandle<Result<()>>, read: impl FnOnce()) -> Result<()> {
    let read = catch_unwind(AssertUnwindSafe(read));
    // Whoever ends it, it ends for both.
    desk.tell(|state| state.stop = true);
    match (read, committing.join()) {
        (Ok(()), Ok(outcome)) => outcome,
        _ => {
            let sentence = "a thread of the subscription has panicked; what is not committed is delivered again";
            let error = Error::new(ErrorKind::Failed, sentence);
            // Whatever the driver waits for is answered, so that it hears of it.
            desk.let_go();
            desk.say(Err(error.clone()));
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;
    use std::thread;
    use std::time::Duration;

    use super::{EndsWithIt, attend};
    use crate::bus::kafka::desk::Desk;
    use crate::error::ErrorKind;
    use crate::storage::clock::ManualClock;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn ends_with(desk: &Desk, outcome: crate::error::Result<()>) {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Failed);
        let told = desk.next(Waker::noop(), true).unwrap().unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Failed, "{told}");
    }

    #[test]
    fn a_thread_that_panics_ends_the_subscription() {
        let desk = Arc::new(Desk::new("group", Arc::new(ManualClock::new(0))));
        let committing = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || {
                assert!(desk.wait_until(PATIENCE, |state| state.stop).stop, "the other has not ended");
                Ok(())
            })
        };
        ends_with(&desk, attend(&desk, committing, || panic!("while reading")));

        let desk = Arc::new(Desk::new("group", Arc::new(ManualClock::new(0))));
        let committing = {
            let ends = EndsWithIt(Arc::clone(&desk));
            thread::spawn(move || {
                ends.0.tell(|state| state.saying = true);
                panic!("while committing")
            })
        };
        let read = || {
            let state = desk.wait_until(PATIENCE, |state| state.stop);
            assert!(state.stop && !state.saying, "the other has not ended");
        };
        ends_with(&desk, attend(&desk, committing, read));
    }
}
