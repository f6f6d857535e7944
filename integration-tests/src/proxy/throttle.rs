//! What all connections of one proxy share in one direction: so many bytes a second, and a queue in
//! front of that, as on the narrowest link between a device and its server.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep_until},
};

/// Most bytes that wait. A sender that finds the queue full waits for its turn.
const QUEUE: usize = 32 * 1024;

/// The limited rate and the queue of one direction.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Bytes a second; 0 is as fast as it goes.
    rate: watch::Receiver<u64>,
    queue: Arc<Semaphore>,
    /// When what is in the queue will have passed.
    free: Mutex<Instant>,
}

/// A place in the queue, and when it ends.
#[derive(Debug)]
pub(super) struct QueuePlace {
    _place: OwnedSemaphorePermit,
    passes: Instant,
}

impl Throttle {
    pub(super) fn new(rate: watch::Receiver<u64>) -> Self {
        Self {
            rate,
            queue: Arc::new(Semaphore::new(QUEUE)),
            free: Mutex::new(Instant::now()),
        }
    }

    /// Whether a rate is kept to.
    pub(super) fn is_slow(&self) -> bool {
        *self.rate.borrow() > 0
    }

    /// Waits for room in the queue; none is needed where no rate is kept to.
    pub(super) async fn enter(&self, bytes: u32) -> Option<QueuePlace> {
        if !self.is_slow() {
            return None;
        }
        let place = Arc::clone(&self.queue)
            .acquire_many_owned(bytes)
            .await
            .ok()?;
        let rate = u32::try_from(*self.rate.borrow()).unwrap_or(u32::MAX);
        let mut free = self.free.lock();
        let takes = Duration::from_secs(u64::from(bytes)).checked_div(rate)?;
        *free = (*free).max(Instant::now()) + takes;
        Some(QueuePlace {
            _place: place,
            passes: *free,
        })
    }

    /// Forgets what is in the queue: it passes at once.
    pub(super) fn clear(&self) {
        *self.free.lock() = Instant::now();
    }
}

impl QueuePlace {
    /// Waits until the bytes have passed, or until no rate is kept to any more.
    pub(super) async fn travelled(self, rate: &mut watch::Receiver<u64>) {
        tokio::select! {
            () = sleep_until(self.passes) => {}
            _ = rate.wait_for(|rate| *rate == 0) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(rate: u64) -> (watch::Sender<u64>, Throttle) {
        let (sender, rate) = watch::channel(rate);
        (sender, Throttle::new(rate))
    }

    #[tokio::test(start_paused = true)]
    async fn new_bytes_wait_only_for_the_bytes_before_them() {
        let (_rate, throttle) = throttle(32 * 1024);
        let begun = Instant::now();
        // Fills the queue, and would go on.
        let mut bulk = Vec::new();
        for _ in 0..QUEUE / 1024 {
            bulk.push(throttle.enter(1024).await.expect("a rate is kept to"));
        }
        let mut rate = throttle.rate.clone();
        let others = async {
            for place in bulk {
                place.travelled(&mut rate).await;
            }
        };
        let control = async {
            let place = throttle.enter(100).await.expect("a rate is kept to");
            place.travelled(&mut throttle.rate.clone()).await;
            begun.elapsed()
        };
        let ((), took) = tokio::join!(others, control);
        let most = Duration::from_millis(1100);
        assert!((Duration::from_secs(1)..most).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_bytes_pass_when_the_rate_is_lifted() {
        let (rate, throttle) = throttle(1);
        let place = throttle.enter(1024).await.expect("a rate is kept to");
        let begun = Instant::now();
        let mut seen = throttle.rate.clone();
        let lift = async { rate.send_replace(0) };
        tokio::join!(place.travelled(&mut seen), lift);
        throttle.clear();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(throttle.enter(1024).await.is_none(), "no rate is kept to");
    }
}
