//! Ctrl-C, and SIGTERM: the first ends the demo in order, the second at once.
//!
//! The show is a thread that waits for other processes most of the time, so signals are heard on another one, and
//! looked for between two steps.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::demo::failure::Failure;

/// Whether we have been told to end.
pub(super) struct Stop(Receiver<()>);

impl Stop {
    /// Begins to listen.
    pub(super) fn listen() -> Result<Self, Failure> {
        let failed = |error| Failure::Program("a signal handler", error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (sender, receiver) = channel();
        let guard = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        drop(guard);
        std::thread::spawn(move || {
            runtime.block_on(async {
                for _ in 0..2 {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    let _ = sender.send(());
                }
            });
            std::process::exit(1); // what we started is ended by the kernel
        });
        Ok(Self(receiver))
    }

    /// An error if we have.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.0.try_recv().map_or(Ok(()), |()| Err(Failure::Interrupted))
    }

    /// Waits for it until the time is over; says whether it came.
    pub(super) fn within(&self, time: Duration) -> bool {
        self.0.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
    }
}
