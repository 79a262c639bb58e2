//! Waiting: for the library's futures, for records, for time to pass, and all the while for Ctrl-C.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use annals::{Codec, Message, Replay};
use futures_core::Stream;
use tokio::runtime::{Builder, Runtime};

use crate::failure::{Class, Failure, Outcome};

fn runtime() -> Outcome<Runtime> {
    let built = Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Failure::new(Class::Failed, format!("cannot wait for anything: {error}")))
}

/// Waits for a future.
pub(crate) fn wait_for<T>(future: impl Future<Output = T>) -> Outcome<T> {
    Ok(runtime()?.block_on(future))
}

/// Listens from now on for Ctrl-C, and for SIGTERM where there is such a thing; resolves at the first.
#[cfg(feature = "kafka")]
pub(crate) fn terminated() -> Outcome<impl Future<Output = ()>> {
    let cannot = |error: std::io::Error| Failure::new(Class::Failed, format!("cannot listen for signals: {error}"));
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt()).map_err(cannot)?, signal(SignalKind::terminate()).map_err(cannot)?);
        Ok(poll_fn(move |cx| match (interrupt.poll_recv(cx), terminate.poll_recv(cx)) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            _ => Poll::Ready(()),
        }))
    }
    #[cfg(windows)]
    {
        let mut interrupt = tokio::signal::windows::ctrl_c().map_err(cannot)?;
        Ok(poll_fn(move |cx| interrupt.poll_recv(cx).map(drop)))
    }
}

/// What a follower has to do.
pub(crate) enum Step {
    /// A record, or the error in its place.
    Item(annals::Result<Message>),
    /// Nothing more is there at the moment.
    Idle,
}

/// Hands every record to `each`, until that answers `false`, the stream ends, or somebody presses Ctrl-C. Says when it waits, so
/// that what was written is seen.
pub(crate) fn follow<C: Codec<bytes::Bytes>>(
    replay: Replay<bytes::Bytes, C>,
    mut each: impl FnMut(Step) -> Outcome<bool>,
) -> Outcome {
    runtime()?.block_on(async {
        let mut replay = pin!(replay);
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        let mut is_idle = false;
        poll_fn(move |cx| {
            loop {
                if interrupted.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(()));
                }
                let next = match replay.as_mut().poll_next(cx) {
                    Poll::Ready(Some(item)) => {
                        is_idle = false;
                        each(Step::Item(item))
                    }
                    Poll::Ready(None) => Ok(false),
                    Poll::Pending if is_idle => return Poll::Pending,
                    Poll::Pending => {
                        is_idle = true;
                        match each(Step::Idle) {
                            Ok(true) => return Poll::Pending,
                            other => other,
                        }
                    }
                };
                match next {
                    Ok(true) => {}
                    Ok(false) => return Poll::Ready(Ok(())),
                    Err(failure) => return Poll::Ready(Err(failure)),
                }
            }
        })
        .await
    })
}

/// Lets time pass, and listens for Ctrl-C from the beginning on.
pub(crate) struct Ticker {
    runtime: Runtime,
    interrupted: Pin<Box<dyn Future<Output = ()>>>,
    is_over: bool,
}

impl Ticker {
    pub(crate) fn new() -> Outcome<Self> {
        let runtime = runtime()?;
        let mut interrupted: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async {
            // Where nobody can listen, the system ends the process.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        // The listening begins with the first poll.
        let is_over = runtime.block_on(poll_fn(|cx| Poll::Ready(interrupted.as_mut().poll(cx).is_ready())));
        Ok(Self { runtime, interrupted, is_over })
    }

    /// Waits. `false` if somebody presses Ctrl-C meanwhile, or has pressed it before.
    pub(crate) fn sleep(&mut self, time: Duration) -> bool {
        if !self.is_over {
            let interrupted = &mut self.interrupted;
            self.is_over = self.runtime.block_on(async { tokio::time::timeout(time, interrupted).await.is_ok() });
        }
        !self.is_over
    }
}
