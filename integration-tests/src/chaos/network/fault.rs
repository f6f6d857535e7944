//! What can happen to the network of one agent, drawn by the seed.

use rand::{RngExt as _, rngs::StdRng};

use crate::proxy::{Direction, MessageFault, Protocol, Trap};

/// A fault of one agent's network.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Every connection is reset, and no new one can be made for a while.
    Cut { millis: u64 },
    /// The connections stay up and pass nothing any more.
    HalfOpen,
    /// Nothing passes for a while, and then all of it.
    Stall { millis: u64 },
    /// Bytes trickle for a while.
    Throttle { rate: u64, millis: u64 },
    /// The connection ends at a message, or garbles it: one of a new connection, or one of those
    /// that come next.
    Message { trap: Trap, is_fresh: bool },
}

impl Fault {
    pub(super) fn draw(rng: &mut StdRng, protocol: Protocol) -> Self {
        if protocol == Protocol::Http2 {
            return Self::message(rng, true);
        }
        match rng.random_range(0..10) {
            0 => Self::Cut {
                millis: rng.random_range(0..1500),
            },
            1 => Self::HalfOpen,
            2 => Self::Stall {
                millis: rng.random_range(50..8000),
            },
            3 => Self::Throttle {
                rate: rng.random_range(500..20_000),
                millis: rng.random_range(500..2500),
            },
            4..6 => Self::message(rng, true),
            _ => Self::message(rng, false),
        }
    }

    fn message(rng: &mut StdRng, garbled: bool) -> Self {
        let is_fresh = rng.random_bool(0.7);
        let fault = match garbled {
            true => MessageFault::Flip(rng.random_range(0..200), rng.random_range(0..8)),
            false if rng.random_bool(0.5) => MessageFault::CutBefore,
            false => MessageFault::CutInside(rng.random_range(1..100)),
        };
        let trap = Trap {
            direction: if rng.random() {
                Direction::Up
            } else {
                Direction::Down
            },
            passes: rng.random_range(0..if is_fresh { 24 } else { 6 }),
            fault,
        };
        Self::Message { trap, is_fresh }
    }

    pub(super) fn name(self, protocol: Protocol) -> &'static str {
        match self {
            Self::Cut { .. } => "cuts",
            Self::HalfOpen => "half-open",
            Self::Stall { .. } => "stalls",
            Self::Throttle { .. } => "throttles",
            Self::Message { trap, .. } => match (trap.fault, protocol) {
                (MessageFault::CutBefore | MessageFault::CutInside(_), _) => "torn messages",
                (MessageFault::Flip(..), Protocol::Tls) => "turned bits",
                (MessageFault::Flip(..), Protocol::Http2) => "turned bits without TLS",
            },
        }
    }

    /// Whether it ends every open session.
    pub(super) fn must_reconnect(self, protocol: Protocol) -> bool {
        match self {
            Self::Cut { .. } | Self::HalfOpen => true,
            Self::Stall { .. } | Self::Throttle { .. } => false,
            // Bytes 1 and 2 of a record are a version that means nothing any more and that TLS 1.3
            // has ignored.
            Self::Message { trap, .. } => {
                protocol == Protocol::Tls && !matches!(trap.fault, MessageFault::Flip(1 | 2, _))
            }
        }
    }
}
