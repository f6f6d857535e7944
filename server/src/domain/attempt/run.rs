//! Further runs of an attempt whose `hooks.pre` asked to be asked again later.

use std::time::Duration;

use kernex_proto::v1;

use crate::clock::Timestamp;

/// Longest pause a device may ask for; its execution deadline usually comes first.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// What is to be written about the next run, given the one that is known and when it is due; `None`
/// when it waits already.
#[must_use]
pub fn next_run(
    known: Option<(u32, Option<Timestamp>)>,
    deferred: &v1::Deferred,
    now: Timestamp,
) -> Option<(u32, Timestamp)> {
    let wanted = deferred.run.max(1).saturating_add(1);
    match known {
        // It was pushed, but the agent still waits for it: once more, at once.
        Some((run, None)) if run >= wanted => Some((wanted, now)),
        Some((run, Some(_))) if run >= wanted => None,
        _ => {
            let pause = Duration::from_millis(deferred.retry_after_ms).min(LONGEST_PAUSE);
            Some((wanted, now.plus(pause)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_is_granted_after_its_pause_and_again_only_when_it_was_lost() {
        let now = Timestamp(1_000_000);
        let later = Timestamp(3_000_000);
        let asks = |run| v1::Deferred {
            run,
            retry_after_ms: 2_000,
            ..v1::Deferred::default()
        };
        let table = [
            (None, 1, Some((2, later))),
            // An agent that does not count says 0 for its first.
            (None, 0, Some((2, later))),
            (Some((2, Some(later))), 1, None),
            (Some((2, None)), 1, Some((2, now))),
            (Some((2, None)), 2, Some((3, later))),
            // A restored database knows less than the agent.
            (Some((2, Some(later))), 5, Some((6, later))),
        ];
        for (known, run, wanted) in table {
            assert_eq!(next_run(known, &asks(run), now), wanted, "{known:?} {run}");
        }
        let forever = v1::Deferred {
            run: 1,
            retry_after_ms: u64::MAX,
            ..v1::Deferred::default()
        };
        assert_eq!(
            next_run(None, &forever, now),
            Some((2, now.plus(LONGEST_PAUSE)))
        );
    }
}
