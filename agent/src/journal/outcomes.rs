//! Outcomes in the order they were made, acknowledged or not: they are sent again to a server that
//! was restored from an older backup.

use kernex_proto::{ids::AttemptId, v1};
use prost::Message as _;
use redb::ReadTransaction;

use super::{
    Journal, JournalError, Record,
    store::{LIVE, TOMBSTONE_ORDER, TOMBSTONES},
    tables::{all_live, parse_key},
};

/// An outcome to be sent again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PastOutcome {
    pub(crate) report: v1::Report,
    /// It is a tombstone: another acknowledgement changes nothing.
    pub(crate) buried: bool,
}

impl Journal {
    /// The number up to which every outcome has been acknowledged.
    pub(crate) fn acknowledged_seq(&self) -> Result<u64, JournalError> {
        let read = self.store.read(|tx| {
            let waits = live_outcomes(tx)?.first().map(|(seq, ..)| *seq);
            buried_before(tx, waits.unwrap_or(u64::MAX))
        });
        match read {
            // Claim nothing of what cannot be read: a number too small only sends outcomes twice.
            Err(error) if error.fault().is_some() => Ok(0),
            read => read,
        }
    }

    /// Whether there is an outcome above this number that was acknowledged before.
    pub(crate) fn is_acknowledged_above(&self, seq: u64) -> Result<bool, JournalError> {
        Ok(self.store.read(|tx| buried_before(tx, u64::MAX))? > seq)
    }

    /// The next outcomes above this number in order, at most so many.
    pub(crate) fn outcomes_above(
        &self,
        seq: u64,
        at_most: usize,
    ) -> Result<Vec<PastOutcome>, JournalError> {
        self.store.read(|tx| {
            let (order, buried) = (tx.open_table(TOMBSTONE_ORDER)?, tx.open_table(TOMBSTONES)?);
            let mut found = Vec::with_capacity(at_most);
            for entry in order.range(seq.saturating_add(1)..)?.take(at_most) {
                let (_, key) = entry?;
                let (Some(id), Some(bytes)) = (parse_key(key.value()), buried.get(key.value())?)
                else {
                    continue;
                };
                let report = Record::decode(bytes.value())?.outcome_report(id);
                found.extend(report.map(|report| PastOutcome {
                    report,
                    buried: true,
                }));
            }
            let live = live_outcomes(tx)?;
            let live_outcomes_in_order = LiveOutcomes::of(&live);
            let above = live.into_iter().filter(|(of, ..)| *of > seq);
            found.extend(above.filter_map(|(_, id, record)| {
                Some(PastOutcome {
                    report: record.outcome_report(id)?,
                    buried: false,
                })
            }));
            found.sort_by_key(|past| past.report.seq);
            found.truncate(at_most);
            for past in &mut found {
                live_outcomes_in_order.set_previous(tx, &mut past.report)?;
            }
            Ok(found)
        })
    }

    /// All reports of one attempt, acknowledged or not.
    pub(crate) fn reports_of(&self, id: AttemptId) -> Result<Vec<v1::Report>, JournalError> {
        let Some(record) = self.get(id)? else {
            return Ok(Vec::new());
        };
        let known = [
            record.accepted_report(id),
            record.deferred_report(id),
            record.outcome_report(id),
        ];
        self.with_previous(known.into_iter().flatten().collect())
    }

    /// Sets in each outcome the number of the outcome before it.
    pub(super) fn with_previous(
        &self,
        mut reports: Vec<v1::Report>,
    ) -> Result<Vec<v1::Report>, JournalError> {
        if reports.iter().any(is_outcome) {
            self.store.read(|tx| {
                let live_outcomes_in_order = LiveOutcomes::of(&live_outcomes(tx)?);
                let mut reports = reports.iter_mut();
                reports.try_for_each(|report| live_outcomes_in_order.set_previous(tx, report))
            })?;
        }
        Ok(reports)
    }
}

fn is_outcome(report: &v1::Report) -> bool {
    matches!(report.event, Some(v1::report::Event::Outcome(_)))
}

/// Numbers of the outcomes that are not acknowledged yet, in order.
struct LiveOutcomes(Vec<u64>);

impl LiveOutcomes {
    fn of(live: &[(u64, AttemptId, Record)]) -> Self {
        Self(live.iter().map(|(seq, ..)| *seq).collect())
    }

    /// Sets the number of the outcome before this one, if the report is an outcome.
    fn set_previous(
        &self,
        tx: &ReadTransaction,
        report: &mut v1::Report,
    ) -> Result<(), JournalError> {
        if is_outcome(report) {
            let live = self.0.iter().copied();
            let live = live.take_while(|seq| *seq < report.seq).last();
            let buried = buried_before(tx, report.seq)?;
            report.previous_outcome_seq = Some(buried.max(live.unwrap_or(0)));
        }
        Ok(())
    }
}

/// Outcomes that wait for their acknowledgement, in order.
fn live_outcomes(tx: &ReadTransaction) -> Result<Vec<(u64, AttemptId, Record)>, JournalError> {
    let live = all_live(&tx.open_table(LIVE)?)?.into_iter();
    let ended = live.filter(|(_, record)| record.outcome.is_some());
    let mut ended: Vec<_> = ended
        .map(|(id, record)| (record.outcome_seq, id, record))
        .collect();
    ended.sort_by_key(|(seq, ..)| *seq);
    Ok(ended)
}

/// Number of the newest acknowledged outcome below `seq`; 0 when there is none.
fn buried_before(tx: &ReadTransaction, seq: u64) -> Result<u64, JournalError> {
    let order = tx.open_table(TOMBSTONE_ORDER)?;
    let newest = order.range(..seq)?.next_back().transpose()?;
    Ok(newest.map_or(0, |(seq, _)| seq.value()))
}
