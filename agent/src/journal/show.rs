//! The journal for human eyes and scripts: one JSON object per attempt, oldest first. The agent
//! must not be running.

use std::path::Path;

use kernex_proto::{ids::AttemptId, words};
use prost::Message as _;
use redb::ReadableTable as _;
use serde_json::{Value, json};

use super::{
    JournalError, Record,
    store::{JournalStore, LIVE, TOMBSTONES},
    tables::parse_key,
};

/// Every attempt the journal of a state folder knows, in the order they came in.
pub(crate) fn attempts(path: &Path) -> Result<Vec<Value>, JournalError> {
    let store = JournalStore::existing(path)?;
    store.read(|tx| {
        let mut rows = Vec::new();
        for (table, acknowledged) in [(LIVE, false), (TOMBSTONES, true)] {
            for entry in tx.open_table(table)?.iter()? {
                let (key, bytes) = entry?;
                if let Some(id) = parse_key(key.value()) {
                    let record = Record::decode(bytes.value())?;
                    rows.push((
                        record.accepted_seq.max(record.outcome_seq),
                        row(id, &record, acknowledged),
                    ));
                }
            }
        }
        rows.sort_by_key(|(seq, _)| *seq);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    })
}

/// One attempt. It has neither its command nor the output of its scripts.
pub(super) fn row(id: AttemptId, record: &Record, acknowledged: bool) -> Value {
    let deploy = record.deploy();
    let outcome = record.outcome.as_ref().map(|outcome| {
        json!({
            "seq": record.outcome_seq,
            "state": words::state(outcome.state()),
            "reason": words::reason(outcome.reason()),
            "message": outcome.message,
        })
    });
    json!({
        "target": id.target.to_string(),
        "attempt": id.number,
        "name": deploy.map(|deploy| &deploy.name),
        "version": deploy.map(|deploy| &deploy.version),
        "digest": deploy.map(|deploy| &deploy.digest),
        "state": words::state(record.state()),
        "step": record.started.as_ref().map(|started| words::step(started.step())),
        "stop_requested": record.stop_requested,
        "outcome": outcome,
        "acknowledged": acknowledged,
    })
}

#[cfg(test)]
mod tests {
    use kernex_proto::{ids::TargetId, v1};

    use super::*;
    use crate::journal::{BootInstant, Journal};

    #[test]
    fn open_and_acknowledged_attempts_are_shown_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        assert!(matches!(attempts(&path), Err(JournalError::Io(_))));
        assert!(!path.exists());
        let (journal, _) = Journal::open(&path).unwrap();
        let attempt = |number| AttemptId {
            target: TargetId::generate(),
            number,
        };
        let at = BootInstant::default();
        let (first, second) = (attempt(1), attempt(2));
        let command = v1::Command::default();
        journal.accept(first, &command, at.clone()).unwrap();
        journal.accept(second, &command, at).unwrap();
        let outcome = v1::Outcome {
            state: v1::AttemptState::Failed.into(),
            reason: v1::FailureReason::Interrupted.into(),
            ..v1::Outcome::default()
        };
        journal.finish(first, outcome, None, String::new()).unwrap();
        let seq = journal.get(first).unwrap().unwrap().outcome_seq;
        journal.acknowledge(seq, 1).unwrap();
        assert!(matches!(attempts(&path), Err(JournalError::InUse(_))));
        drop(journal);
        let mut rows = attempts(&path).unwrap();
        rows.sort_by_key(|row| row["attempt"].as_u64());
        assert_eq!(rows[0]["outcome"]["reason"], "interrupted");
        assert_eq!(rows[0]["acknowledged"], true);
        assert_eq!(rows[1]["state"], "accepted");
        assert_eq!(rows[1]["outcome"], Value::Null);
        assert_eq!(rows[1]["acknowledged"], false);
    }
}
