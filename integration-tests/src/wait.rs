//! Waiting for a condition instead of for time: a slow machine makes a test slow, never red.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

/// How long a condition may take before the test gives up; far beyond what a loaded machine needs.
pub const LIMIT: Duration = Duration::from_secs(90);

const BETWEEN_LOOKS: Duration = Duration::from_millis(40);

/// Looks until `probe` returns `Ok`, at most [`LIMIT`]. `Err` says what was seen instead; the last
/// one is in the failure.
///
/// # Panics
/// When the condition does not come true in time.
pub async fn wait_for<T, F, P>(what: &str, probe: P) -> T
where
    P: FnMut() -> F,
    F: Future<Output = Result<T, String>>,
{
    wait_for_within(LIMIT, what, probe).await
}

/// [`wait_for`] with a limit of its own, for things that are promised to be quick or known to be
/// slow.
///
/// # Panics
/// When the condition does not come true in time.
pub async fn wait_for_within<T, F, P>(limit: Duration, what: &str, mut probe: P) -> T
where
    P: FnMut() -> F,
    F: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    let mut looks = interval(BETWEEN_LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = String::from("nothing was seen");
    while start.elapsed() < limit {
        looks.tick().await;
        match tokio::time::timeout(limit, probe()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(seen)) => last = seen,
            Err(_) => last = format!("a look did not return; before: {last}"),
        }
    }
    panic!(
        "waited {:.1} s for: {what}\nlast seen: {last}",
        start.elapsed().as_secs_f64()
    );
}

/// Shorthand for probes: `Ok` when `condition` holds, else what was seen.
pub fn seen<T: std::fmt::Debug>(condition: bool, state: T) -> Result<T, String> {
    if condition {
        Ok(state)
    } else {
        Err(format!("{state:?}"))
    }
}
