//! Waiting for a condition instead of for time: a slow machine makes a test slow, never red.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::{Status, Streaming};

use crate::refusal::is_passing;

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

/// Asks again while another try may help, at most for [`LIMIT`]: the programs under test give up
/// after seconds, which is less than a busy machine may need.
pub async fn insist<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let end = Instant::now() + LIMIT;
    loop {
        match ask().await {
            Err(status) if is_passing(&status) && Instant::now() < end => {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            answer => return answer,
        }
    }
}

/// The next message of a stream; `None` at its good end. A stream that says nothing makes a test
/// red, and does not make it wait for ever.
///
/// # Panics
/// When nothing comes within [`LIMIT`].
pub async fn next_message<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    let next = tokio::time::timeout(LIMIT, stream.message()).await;
    next.unwrap_or_else(|_| panic!("a stream said nothing for {LIMIT:?}"))
}

/// Shorthand for probes: `Ok` when `condition` holds, else what was seen.
pub fn seen<T: std::fmt::Debug>(condition: bool, state: T) -> Result<T, String> {
    if condition {
        Ok(state)
    } else {
        Err(format!("{state:?}"))
    }
}
