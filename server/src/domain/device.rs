//! Whether a returning agent is the one that left or a copy of it, and which number (epoch) its
//! session gets.

use kernex_proto::ids::JournalId;

use super::named_enum;

pub mod away;
pub mod drift;

named_enum! {
    /// Whether a device can be reached now.
    DeviceStatus {
        /// It has no live session.
        Offline = "offline",
        /// It has a session, and its server's lease is alive.
        Online = "online",
        /// Copies of it were seen. It gets no commands until an operator decides.
        Conflicted = "conflicted",
    }
}

named_enum! {
    /// What is wrong with the disk of an agent's state folder.
    DiskFault {
        /// It is full.
        NoSpace = "no space",
        /// It can only be read.
        ReadOnly = "read-only",
        /// It fails.
        IoError = "input/output error",
    }
}

named_enum! {
    /// Why a device is conflicted.
    Conflict {
        /// Copies of it were seen.
        Copies = "copies",
        /// An agent with its key named a session number that was never given.
        EpochNotIssued = "epoch_not_issued",
    }
}

/// How far an agent's newest epoch may be ahead of the newest one in the database. A database that
/// was restored from an older backup lacks some epochs, but never so many: that is a session a
/// minute for two years.
pub const EPOCHS_FORGOTTEN: u64 = 1 << 20;

/// In [`KnownJournals::given_up_below`]: all copies of the journal.
pub const EVERY_COPY: u64 = i64::MAX as u64;

/// What the server knows about a device's journals before a session opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownJournals {
    /// The journal in use; `None` before the first session.
    pub journal: Option<JournalId>,
    /// Whether the journal that comes now was in use before another one took over.
    pub retired: bool,
    /// Newest epoch that was given.
    pub issued_epoch: u64,
    /// Newest epoch that the agent confirmed to have on disk.
    pub confirmed_epoch: u64,
    /// An operator gave up the copies of this journal whose newest epoch is below this.
    pub given_up_below: u64,
}

/// What a journal is that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturningJournal {
    /// The journal in use. Its list of attempts is complete.
    Same,
    /// A new journal: the device's first, or its disk was lost with the old one.
    Fresh,
    /// A copy of a journal that went on elsewhere.
    Fork,
    /// A copy that an operator gave up.
    GivenUp,
    /// It names an epoch that was never given, so it is not believed.
    NotIssued,
}

/// Tells a device that comes back from a copy of it.
///
/// A journal has an epoch on disk before it confirms it. So its true owner never comes back with
/// less than was confirmed, and a copy that was taken earlier does. An epoch that was given and
/// never confirmed proves nothing.
#[must_use]
pub fn recognise(known: &KnownJournals, journal: JournalId, last_epoch: u64) -> ReturningJournal {
    if last_epoch < known.given_up_below || known.given_up_below == EVERY_COPY {
        return ReturningJournal::GivenUp;
    }
    if last_epoch > known.issued_epoch.saturating_add(EPOCHS_FORGOTTEN) {
        return ReturningJournal::NotIssued;
    }
    if known.retired {
        return ReturningJournal::Fork;
    }
    if known.journal != Some(journal) {
        return ReturningJournal::Fresh;
    }
    if last_epoch < known.confirmed_epoch {
        return ReturningJournal::Fork;
    }
    ReturningJournal::Same
}

/// The number of the session that opens now, unless the journal is [`ReturningJournal::NotIssued`].
/// The agent's own number counts, too, so numbers grow even over a restored database.
#[must_use]
pub fn next_epoch(known: &KnownJournals, last_epoch: u64) -> u64 {
    known.issued_epoch.max(last_epoch).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(journal: JournalId, issued: u64, confirmed: u64) -> KnownJournals {
        KnownJournals {
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
        let decided = KnownJournals {
            given_up_below: 4,
            ..state
        };
        let table = [
            (state, journal, 4, ReturningJournal::Same),
            (state, journal, 5, ReturningJournal::Same),
            (state, journal, 9, ReturningJournal::Same),
            (state, journal, 3, ReturningJournal::Fork),
            (state, other, 0, ReturningJournal::Fresh),
            (state, journal, 5 + EPOCHS_FORGOTTEN, ReturningJournal::Same),
            (
                state,
                journal,
                6 + EPOCHS_FORGOTTEN,
                ReturningJournal::NotIssued,
            ),
            (state, other, u64::MAX, ReturningJournal::NotIssued),
            (
                KnownJournals {
                    retired: true,
                    ..state
                },
                other,
                u64::MAX,
                ReturningJournal::NotIssued,
            ),
            (
                KnownJournals {
                    given_up_below: EVERY_COPY,
                    ..state
                },
                journal,
                u64::MAX,
                ReturningJournal::GivenUp,
            ),
            (decided, journal, 4, ReturningJournal::Same),
            (decided, journal, 3, ReturningJournal::GivenUp),
            (
                KnownJournals {
                    retired: true,
                    ..state
                },
                other,
                7,
                ReturningJournal::Fork,
            ),
            (
                KnownJournals {
                    journal: None,
                    ..state
                },
                other,
                0,
                ReturningJournal::Fresh,
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

        /// Whatever a holder of the key says, the number grows by at most what a restored backup
        /// may lack. The honest agent still gets a newer number than it had.
        #[test]
        fn no_lie_moves_the_number_away_from_the_honest_agent(
            issued in 0..1_u64 << 40,
            lies in prop::collection::vec(prop_oneof![any::<u64>(), 0..1_u64 << 41], 0..20),
        ) {
            let journal = JournalId::generate();
            let mut state = known(journal, issued, issued);
            let honest = issued;
            for lie in lies {
                let before = state.issued_epoch;
                match recognise(&state, journal, lie) {
                    ReturningJournal::NotIssued => prop_assert!(lie > before + EPOCHS_FORGOTTEN),
                    _ => state.issued_epoch = next_epoch(&state, lie),
                }
                prop_assert!(state.issued_epoch <= before + EPOCHS_FORGOTTEN + 1);
            }
            prop_assert_eq!(recognise(&state, journal, honest), ReturningJournal::Same);
            prop_assert!(next_epoch(&state, honest) > honest);
        }

        /// A backup that lacks no more sessions than there can have been is no conflict.
        #[test]
        fn an_older_backup_is_no_conflict(issued in 0..1_u64 << 40, forgotten in 0..=EPOCHS_FORGOTTEN) {
            let journal = JournalId::generate();
            let state = known(journal, issued, issued);
            let last = issued + forgotten;
            prop_assert_eq!(recognise(&state, journal, last), ReturningJournal::Same);
            prop_assert_eq!(next_epoch(&state, last), last + 1);
        }
    }
}
