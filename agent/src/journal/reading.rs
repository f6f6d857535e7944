//! Queries of the journal; nothing here changes it.

use kernex_proto::{ids::AttemptId, v1};
use prost::Message as _;
use redb::ReadableTable as _;

use super::{
    Journal, JournalError, Record, Release, Stage,
    store::{LIVE, RELEASES, TOMBSTONES},
    tables::{all_live, key},
};

impl Journal {
    /// Every attempt that is open or whose outcome is unacknowledged.
    pub(crate) fn live(&self) -> Result<Vec<(AttemptId, Record)>, JournalError> {
        match self.store.read(|tx| all_live(&tx.open_table(LIVE)?)) {
            // The snapshot is what the journal held last: nothing can have been added since.
            Err(error) if error.fault().is_some() => Ok(self.snapshot().live.clone()),
            read => read,
        }
    }

    /// One attempt, open or a tombstone.
    pub(crate) fn get(&self, id: AttemptId) -> Result<Option<Record>, JournalError> {
        self.store.read(|tx| {
            let key = key(id);
            let live = tx.open_table(LIVE)?;
            if let Some(bytes) = live.get(key.as_slice())? {
                return Ok(Some(Record::decode(bytes.value())?));
            }
            let buried = tx.open_table(TOMBSTONES)?;
            let bytes = buried.get(key.as_slice())?;
            Ok(bytes
                .map(|bytes| Record::decode(bytes.value()))
                .transpose()?)
        })
    }

    /// Reports that are not acknowledged, in the order they were made.
    pub(crate) fn unacknowledged(&self) -> Result<Vec<v1::Report>, JournalError> {
        let mut reports = Vec::new();
        for (id, record) in self.live()? {
            if !record.accepted_acked {
                reports.extend(record.accepted_report(id));
            }
            if !record.deferred_acked {
                reports.extend(record.deferred_report(id));
            }
            reports.extend(record.outcome_report(id));
        }
        reports.sort_by_key(|report| report.seq);
        self.with_previous(reports)
    }

    /// Reports of attempts that wait for another run; each session sends them.
    pub(crate) fn deferred(&self) -> Result<Vec<v1::Report>, JournalError> {
        let live = self.live()?;
        Ok(live
            .iter()
            .filter_map(|(id, record)| record.deferred_report(*id))
            .collect())
    }

    /// The attempt to run next: one that has begun comes first, then the oldest.
    pub(crate) fn next_ready(&self) -> Result<Option<AttemptId>, JournalError> {
        let rank = |record: &Record| match record.stage() {
            Some(Stage::GoingBack(_) | Stage::Returning(..) | Stage::Restarted(_)) => Some(0),
            Some(Stage::Fresh) => Some(1),
            Some(Stage::Deferred | Stage::CutOff) | None => None,
        };
        Ok(self
            .live()?
            .into_iter()
            .filter_map(|(id, record)| Some(((rank(&record)?, record.accepted_seq), id)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, id)| id))
    }

    /// What `current` names, by bundle name.
    pub(crate) fn releases(&self) -> Result<Vec<(String, Release)>, JournalError> {
        self.store.read(|tx| {
            let table = tx.open_table(RELEASES)?;
            let mut releases = Vec::new();
            for entry in table.iter()? {
                let (name, bytes) = entry?;
                releases.push((name.value().to_owned(), Release::decode(bytes.value())?));
            }
            Ok(releases)
        })
    }
}
