//! Further runs of an attempt whose pre hook asked for more time.

use std::time::Duration;

use crate::clock::Timestamp;

/// Longest pause a device may ask for; its execution deadline usually comes first.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// A device asks for another run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deferral {
    /// The run that asks, from 1; 0 from an agent that does not count.
    pub run: u32,
    /// How long it wants to wait.
    pub pause: Duration,
}

/// Number and time of the next run, from the run that is known and when it is due. `None` when that
/// run waits already.
#[must_use]
pub fn next_run(
    known: Option<(u32, Option<Timestamp>)>,
    asks: Deferral,
    now: Timestamp,
) -> Option<(u32, Timestamp)> {
    let wanted = asks.run.max(1).saturating_add(1);
    match known {
        // It was pushed and the agent still asks for it, so the push was lost. It is pushed again
        // at once.
        Some((run, None)) if run >= wanted => Some((wanted, now)),
        Some((run, Some(_))) if run >= wanted => None,
        _ => Some((wanted, now.plus(asks.pause.min(LONGEST_PAUSE)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_is_granted_after_its_pause_and_again_only_when_it_was_lost() {
        let now = Timestamp(1_000_000);
        let later = Timestamp(3_000_000);
        let asks = |run| Deferral {
            run,
            pause: Duration::from_secs(2),
        };
        let table = [
            (None, 1, Some((2, later))),
            // An agent that does not count its runs says 0 for the first.
            (None, 0, Some((2, later))),
            (Some((2, Some(later))), 1, None),
            (Some((2, None)), 1, Some((2, now))),
            (Some((2, None)), 2, Some((3, later))),
            // A restored database knows less than the agent.
            (Some((2, Some(later))), 5, Some((6, later))),
        ];
        for (known, run, wanted) in table {
            assert_eq!(next_run(known, asks(run), now), wanted, "{known:?} {run}");
        }
        let forever = Deferral {
            run: 1,
            pause: Duration::MAX,
        };
        assert_eq!(
            next_run(None, forever, now),
            Some((2, now.plus(LONGEST_PAUSE)))
        );
    }
}
