//! Whether a returning agent is the one that left, or a copy of it; and which number its session gets.

use kernex_proto::{ids::JournalId, v1};

use super::named_enum;

pub mod drift;

named_enum! {
    /// Whether a device can be reached now.
    DeviceStatus <=> v1::DeviceStatus {
        /// No live session.
        Offline = "offline",
        /// A session and a live server lease.
        Online = "online",
        /// Two copies were seen; an operator decides.
        Conflicted = "conflicted",
    }
}

named_enum! {
    /// What is wrong with the disk of an agent's state folder.
    DiskFault <=> v1::DiskFault {
        /// It is full.
        NoSpace = "no space",
        /// It can only be read.
        ReadOnly = "read-only",
        /// It fails.
        IoError = "input/output error",
    }
}

/// What the server knows of a device's journals before a session opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The journal in use, if any session ever opened.
    pub journal: Option<JournalId>,
    /// Whether the journal that comes now was in use before another one took over.
    pub retired: bool,
    /// Newest epoch given out.
    pub issued_epoch: u64,
    /// Newest epoch the agent confirmed to have on disk.
    pub confirmed_epoch: u64,
    /// An operator decided against copies of the journal that comes now whose newest epoch is older than this.
    pub given_up_below: u64,
}

/// What a returning journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// The one that was in use; its list of attempts is complete.
    Same,
    /// A new one: the first, or the old one was lost with its disk.
    Fresh,
    /// A copy of a journal that went on elsewhere.
    Fork,
    /// A copy an operator decided against.
    GivenUp,
}

/// Tells a device that comes back from a copy of it.
///
/// A journal writes an epoch down before it confirms it, so the true owner never returns with less than what was
/// confirmed; only a copy taken earlier does. An epoch that was issued and never confirmed proves nothing.
#[must_use]
pub fn recognise(known: &Known, journal: JournalId, last_epoch: u64) -> Return {
    if last_epoch < known.given_up_below {
        return Return::GivenUp;
    }
    if known.retired {
        return Return::Fork;
    }
    if known.journal != Some(journal) {
        return Return::Fresh;
    }
    if last_epoch < known.confirmed_epoch {
        return Return::Fork;
    }
    Return::Same
}

/// The number of the session that opens now. Taking the agent's own number into account keeps it growing even over a
/// restored database.
#[must_use]
pub fn next_epoch(known: &Known, last_epoch: u64) -> u64 {
    known.issued_epoch.max(last_epoch).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(journal: JournalId, issued: u64, confirmed: u64) -> Known {
        Known {
            journal: Some(journal),
            retired: false,
            issued_epoch: issued,
            confirmed_epoch: confirmed,
            given_up_below: 0,
        }
    }

    #[test]
    fn copies_are_told_from_owners() {
        let (journal, other) = (JournalId::generate(), JournalId::generate());
        let state = known(journal, 5, 4);
        let decided = Known {
            given_up_below: 4,
            ..state
        };
        let table = [
            (state, journal, 4, Return::Same),
            (state, journal, 5, Return::Same),
            (state, journal, 9, Return::Same),
            (state, journal, 3, Return::Fork),
            (state, other, 0, Return::Fresh),
            (decided, journal, 4, Return::Same),
            (decided, journal, 3, Return::GivenUp),
            (
                Known {
                    retired: true,
                    ..state
                },
                other,
                7,
                Return::Fork,
            ),
            (
                Known {
                    journal: None,
                    ..state
                },
                other,
                0,
                Return::Fresh,
            ),
        ];
        for (state, journal, last, expected) in table {
            assert_eq!(recognise(&state, journal, last), expected, "{last}");
        }
    }

    proptest! {
        #[test]
        fn epochs_only_grow(issued in 0..u64::MAX / 2, confirmed in any::<u64>(), last in 0..u64::MAX / 2) {
            let state = known(JournalId::generate(), issued, confirmed);
            let next = next_epoch(&state, last);
            prop_assert!(next > issued && next > last);
        }
    }
}
