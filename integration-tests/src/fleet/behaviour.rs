//! Options of a fleet: how agents send heartbeats, answer deploys and reconnect.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::sync::Semaphore;

/// When an agent sends its heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeartbeatPace {
    /// As often as Welcome asks for.
    Asked,
    /// At this interval, whatever the server does: open loop.
    Every(Duration),
    /// The next one as soon as the one before is acknowledged: closed loop.
    Closed,
    /// Not at all.
    Never,
}

/// What an agent does with a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeployBehaviour {
    /// Accepts it and reports that it succeeded.
    Succeed,
    /// Accepts it and leaves it running.
    Accept,
    /// Says nothing about it.
    Ignore,
}

/// How long an agent waits before it connects again: anywhere between nothing and a ceiling that
/// doubles; what the server asks for wins.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The first ceiling.
    pub first: Duration,
    /// The last one.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(15),
        }
    }
}

impl Backoff {
    /// Wait after `failures` failures in a row; `random` is from 0 to 1.
    pub(super) fn wait(self, failures: u32, random: f64) -> Duration {
        let ceilings = ExponentialBuilder::new()
            .with_min_delay(self.first)
            .with_max_delay(self.longest)
            .without_max_times()
            .build();
        // After so many the longest is reached.
        let mut ceilings = ceilings.skip(failures.min(16) as usize);
        ceilings.next().unwrap_or(self.longest).mul_f64(random)
    }
}

/// What a fleet starts with.
#[derive(Debug, Clone)]
pub struct Options {
    /// When heartbeats are sent.
    pub pace: HeartbeatPace,
    /// What becomes of deploys.
    pub deploys: DeployBehaviour,
    /// How agents come back.
    pub backoff: Backoff,
    /// First connections are spread over this time.
    pub spread: Duration,
    /// How many connect and prove their identity at once. Real devices each sign on a processor of
    /// their own; here one process signs for all. An agent that waits too long for its turn is only
    /// one more handshake for the server.
    pub openings: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pace: HeartbeatPace::Asked,
            deploys: DeployBehaviour::Succeed,
            backoff: Backoff::default(),
            spread: Duration::ZERO,
            openings: Semaphore::MAX_PERMITS,
        }
    }
}

/// What all agents of a fleet do; changed while they run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Behaviour {
    pub(super) cuts: u64,
    pub(super) pace: HeartbeatPace,
    pub(super) deploys: DeployBehaviour,
}

impl Behaviour {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            cuts: 0,
            pace: options.pace,
            deploys: options.deploys,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(5),
        };
        let waits = [0, 1, 2, 3, 60].map(|failures| backoff.wait(failures, 1.0).as_secs());
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert_eq!(backoff.wait(3, 0.0), Duration::ZERO);
    }
}
