//! Work that blocks its thread: it gets one of its own, and is told to stop when nobody waits for
//! it any more.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::error::{Exit, Failure};

/// Whether the work is to stop.
#[derive(Debug, Clone)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// An error once the work is to stop.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        Ok(())
    }

    /// A reader that fails once the work is to stop.
    pub(crate) fn reader<R>(&self, inner: R) -> Stoppable<R> {
        Stoppable {
            inner,
            stop: self.clone(),
        }
    }
}

pub(crate) struct Stoppable<R> {
    inner: R,
    stop: Stop,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.check()?;
        self.inner.read(buffer)
    }
}

/// Stops the work when the future that waits for it is dropped.
struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs work on a thread that may block. Files that have to be removed belong to the caller: it
/// removes them at once, while the work may still be in a read.
pub(crate) async fn run<T, F>(work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce(&Stop) -> T + Send + 'static,
{
    let stop = Stop(Arc::default());
    let _waiting = StopOnDrop(stop.clone());
    let working = tokio::task::spawn_blocking(move || work(&stop));
    working
        .await
        .map_err(|error| Failure::new(Exit::Error, format!("it broke off: {error}"), "Try again."))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_stops() {
        let (tell, told) = mpsc::channel();
        let endless = run(move |stop| {
            let mut zeros = stop.reader(io::repeat(0));
            let copied = io::copy(&mut zeros, &mut io::sink());
            let _ = tell.send(copied.is_err());
        });
        let waited = tokio::time::timeout(Duration::from_millis(50), endless).await;
        assert!(waited.is_err(), "it has no end of its own");
        let stopped = told.recv_timeout(Duration::from_secs(30));
        assert_eq!(stopped, Ok(true));
    }

    #[tokio::test]
    async fn what_the_work_returns_comes_back() {
        assert_eq!(run(|stop| stop.check().is_ok()).await, Ok(true));
    }
}
