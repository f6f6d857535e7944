//! What a service manager such as systemd hears of a program: that it is ready, how it is, that it
//! still runs, that it stops. Without a manager all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Signs of life that are sent within the manager's time limit, so that two may be late.
const SIGNS: u32 = 3;

/// The program has started and does its work.
pub fn ready(status: &str) {
    tell(&[NotifyState::Status(&one_line(status)), NotifyState::Ready]);
}

/// How it is at the moment, in one line for people.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(&one_line(text))]);
}

/// The program was asked to stop and does so.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Shows until `stop` that tasks of this program still run, as often as the manager asks for it.
pub async fn watchdog(stop: CancellationToken) {
    let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    let Some(limit) = limit else {
        return stop.cancelled().await;
    };
    let mut ticks = tokio::time::interval((limit / SIGNS).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

/// A line break would begin a message of its own.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
