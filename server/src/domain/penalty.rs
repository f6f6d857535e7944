//! The penalty box. A device that has failed the same bundle too often gets it again only by an
//! explicit retry. Pure.

use super::attempt::{Ending, FailureReason};
use crate::clock::Timestamp;

/// Failures in a row after which a device is left out, by default.
pub const DEFAULT_AFTER: u32 = 3;

/// How one attempt of a bundle on a device ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastOutcome {
    /// When the outcome became known.
    pub at: Timestamp,
    pub ending: Ending,
}

/// Why a device is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Penalty {
    /// Failures in a row.
    pub failures: u32,
    /// Why it failed the last time.
    pub last: FailureReason,
}

impl std::fmt::Display for Penalty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "this bundle failed here {} times in a row, the last time with {}; only an explicit retry runs it again",
            self.failures, self.last
        )
    }
}

/// The penalty of a device with these past outcomes: `after` failures or more since its last
/// success. 0 is never.
#[must_use]
pub fn penalty(mut past: Vec<PastOutcome>, after: u32) -> Option<Penalty> {
    past.sort_unstable_by_key(|past| std::cmp::Reverse(past.at));
    let mut last = None;
    let mut failures = 0;
    for past in past {
        match past.ending {
            Ending::Succeeded => break,
            Ending::Failed(reason) if speaks_against(reason) => {
                last.get_or_insert(reason);
                failures += 1;
            }
            Ending::Failed(_) | Ending::Cancelled => {}
        }
    }
    let last = last.filter(|_| after > 0 && failures >= after)?;
    Some(Penalty { failures, last })
}

/// Whether a failure says something about the bundle on this device. An interruption does: when a
/// bundle crashes the machine, nothing else is seen of it.
const fn speaks_against(reason: FailureReason) -> bool {
    match reason {
        FailureReason::DigestMismatch
        | FailureReason::UnsafeArchive
        | FailureReason::ManifestMissing
        | FailureReason::ManifestInvalid
        | FailureReason::Requirements
        | FailureReason::DiskFull
        | FailureReason::ScriptFailed
        | FailureReason::ScriptTimeout
        | FailureReason::HealthCheck
        | FailureReason::RollbackFailed
        | FailureReason::Interrupted
        | FailureReason::Internal => true,
        // These say nothing about the bundle: the network, the device's own "not now", an agent
        // that lost its journal or is too old, and the penalty box itself.
        FailureReason::Download
        | FailureReason::Refused
        | FailureReason::JournalLost
        | FailureReason::Unsupported
        | FailureReason::Penalised => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_that_speak_against_the_bundle_count() {
        use Ending::{Cancelled, Failed, Succeeded};
        use FailureReason::{Download, HealthCheck, Interrupted, Penalised, ScriptFailed};
        let (script, health, cut) = (
            Failed(ScriptFailed),
            Failed(HealthCheck),
            Failed(Interrupted),
        );
        type Case<'a> = (&'a [Ending], u32, Option<(u32, FailureReason)>);
        let table: &[Case<'_>] = &[
            (&[], 3, None),
            (&[script, script], 3, None),
            (&[script, script, health], 3, Some((3, HealthCheck))),
            (&[script, cut, script, script], 3, Some((4, ScriptFailed))),
            (&[script, script, Succeeded, script], 3, None),
            (
                &[script, Cancelled, script, Failed(Download), script],
                3,
                Some((3, ScriptFailed)),
            ),
            (
                &[script, script, Failed(Penalised), Failed(Penalised)],
                3,
                None,
            ),
            (&[script], 1, Some((1, ScriptFailed))),
            (&[script, script, script], 0, None),
        ];
        for (endings, after, wanted) in table {
            let past = endings.iter().zip(1..).map(|(ending, at)| PastOutcome {
                at: Timestamp(at),
                ending: *ending,
            });
            let mut past: Vec<PastOutcome> = past.collect();
            // Rows come in no order.
            past.reverse();
            let wanted = wanted.map(|(failures, last)| Penalty { failures, last });
            assert_eq!(penalty(past, *after), wanted, "{endings:?}");
        }
    }
}
