//! When a light agent's heartbeats are due, and how long their acknowledgements take.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use kernex_proto::v1::Welcome;

use super::HeartbeatPace;

/// When heartbeats are due, and the ones on their way.
#[derive(Debug)]
pub(super) struct Heartbeats {
    seq: u64,
    pub(super) interval: Option<Duration>,
    pub(super) next: Instant,
    on_their_way: VecDeque<(u64, Instant)>,
}

impl Heartbeats {
    pub(super) fn new(welcome: &Welcome, pace: HeartbeatPace) -> Self {
        let mut beats = Self {
            seq: 0,
            interval: None,
            next: Instant::now(),
            on_their_way: VecDeque::new(),
        };
        beats.set(welcome, pace);
        beats
    }

    /// The first one comes at a random moment, so that a fleet's beats are spread.
    pub(super) fn set(&mut self, welcome: &Welcome, pace: HeartbeatPace) {
        self.interval = match pace {
            HeartbeatPace::Asked => Some(Duration::from_millis(welcome.heartbeat_interval_ms)),
            HeartbeatPace::Every(interval) => Some(interval),
            HeartbeatPace::Closed | HeartbeatPace::Never => None,
        };
        if let Some(interval) = self.interval {
            self.next = Instant::now() + interval.mul_f64(rand::random());
        }
    }

    pub(super) fn sent(&mut self) -> u64 {
        let now = Instant::now();
        self.seq += 1;
        self.on_their_way.push_back((self.seq, now));
        if let Some(interval) = self.interval {
            // Counted from the planned time, not from now, so that a late one does not delay the
            // others.
            self.next += interval;
        }
        self.seq
    }

    pub(super) fn acknowledged(&mut self, seq: u64) -> Option<Duration> {
        while let Some((first, sent)) = self.on_their_way.pop_front() {
            if first == seq {
                return Some(sent.elapsed());
            }
        }
        None
    }
}
