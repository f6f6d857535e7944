//! Moves deployments with phases on. A wake-up (an attempt ended, an operator decided) or a timer
//! starts a round. A round reads where the deployments stand, and applies what the planner says. A
//! lost wake-up loses nothing.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::leave_alone,
    delivery::wake_ups::WakeUps,
    error::chain,
    store::{Advanced, Store},
};

/// Time between two rounds while a deployment with phases is open, or after a round that failed.
/// Other replicas and deadlines close attempts, too.
const ROUND_EVERY_BUSY: Duration = Duration::from_secs(1);
/// The same while none is open.
const ROUND_EVERY: Duration = Duration::from_secs(5);
/// How long the first wake-up waits for others.
const GATHER: Duration = Duration::from_millis(10);
/// Longest pause that spares the store.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Moves rollouts on until `stop`.
pub(crate) async fn run(store: Store, wake_ups: Arc<WakeUps>, stop: CancellationToken) {
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = wake_ups.wait_for_rollouts() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep_until(next) => {}
        }
        let asked = Instant::now();
        let pause = match store.advance_rollouts().await {
            Ok(advanced) => {
                let pause = pause(&advanced, &store);
                for (deployment, error) in &advanced.failed {
                    tracing::error!(%deployment, error = %chain(error), "a rollout cannot go on");
                }
                wake_ups.wake_devices(advanced.devices);
                pause
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "rollouts wait for the store");
                ROUND_EVERY_BUSY
            }
        };
        // However many wake-ups come, a round that takes long is followed by a longer pause.
        let spare = leave_alone(asked.elapsed(), LONGEST_PAUSE);
        if stop
            .run_until_cancelled(tokio::time::sleep(spare))
            .await
            .is_none()
        {
            return;
        }
        next = asked + pause;
    }
}

/// How long until the next round if no wake-up comes.
fn pause(advanced: &Advanced, store: &Store) -> Duration {
    if advanced.open == 0 {
        return ROUND_EVERY;
    }
    match advanced.wake {
        Some(wake) => wake.since(store.now()).clamp(GATHER, ROUND_EVERY_BUSY),
        None => ROUND_EVERY_BUSY,
    }
}
