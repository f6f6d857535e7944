//! The journal in short, for a support bundle: how far it is, which attempts it knows and which
//! marks each of them has. Commands, output of scripts and values of configurations stay in it.

use std::{path::Path, thread, time::Duration};

use kernex_proto::{
    ids::AttemptId,
    v1::{self, FailureReason},
};
use prost::Message as _;
use redb::{Database, ReadableDatabase as _, ReadableTable as _};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    JournalError, Record, Release, show,
    snapshot::read_copy,
    store::{IDENTITY, LIVE, NUMBERS, RELEASES, TOMBSTONES},
    tables::parse_key,
};

/// Attempts that are told: the newest ones.
const ATTEMPTS: usize = 100;

/// Tries to read a file that its agent may be writing.
const TRIES: u32 = 5;
/// Time between two tries. A write takes a few milliseconds.
const PAUSE: Duration = Duration::from_millis(50);

/// What a support bundle has from the journal.
#[derive(Debug)]
pub(crate) struct JournalSummary {
    pub(crate) json: Value,
    /// The newest configuration of the server. Its values may be secret.
    pub(crate) configuration: Option<v1::Configure>,
}

/// Reads the journal of an agent that may run or not, and changes nothing.
pub(crate) fn summary(path: &Path) -> Result<JournalSummary, JournalError> {
    let mut tries = 1;
    loop {
        match read_copy(path, summarise) {
            // Torn, because the agent wrote at the same time.
            Err(_) if tries < TRIES && path.exists() => tries += 1,
            read => return read,
        }
        thread::sleep(PAUSE);
    }
}

fn summarise(database: &Database) -> Result<JournalSummary, JournalError> {
    let tx = database.begin_read()?;
    let (mut open, mut acknowledged) = (0_usize, 0_usize);
    let mut rows = Vec::new();
    for (table, buried) in [(LIVE, false), (TOMBSTONES, true)] {
        for entry in tx.open_table(table)?.iter()? {
            let (key, bytes) = entry?;
            let Some(id) = parse_key(key.value()) else {
                continue;
            };
            let record = Record::decode(bytes.value())?;
            let counted = if buried { &mut acknowledged } else { &mut open };
            *counted += 1;
            let seq = record.accepted_seq.max(record.outcome_seq);
            rows.push((seq, row(id, &record, buried)));
            // There may be ten thousand of them.
            if rows.len() > 2 * ATTEMPTS {
                keep_newest(&mut rows);
            }
        }
    }
    keep_newest(&mut rows);
    let left_out = (open + acknowledged).saturating_sub(rows.len());
    let rows: Vec<Value> = rows.into_iter().map(|(_, row)| row).collect();
    let numbers = tx.open_table(NUMBERS)?;
    let number = |name| Ok::<_, JournalError>(numbers.get(name)?.map_or(0, |n| n.value()));
    let identity = tx.open_table(IDENTITY)?;
    let id = identity.get("id")?;
    let id = id.and_then(|bytes| Uuid::from_slice(bytes.value()).ok());
    let configuration = identity.get("configuration")?;
    let configuration = configuration
        .map(|bytes| v1::Configure::decode(bytes.value()))
        .transpose()?;
    let mut releases = Vec::new();
    for entry in tx.open_table(RELEASES)?.iter()? {
        let (name, bytes) = entry?;
        releases.push(json!({
            "name": name.value(),
            "release": Release::decode(bytes.value())?,
        }));
    }
    let json = json!({
        "id": id.map(|id| id.to_string()),
        "epoch": number("epoch")?,
        "seq": number("seq")?,
        "open": open,
        "acknowledged": acknowledged,
        "releases": releases,
        "attempts": rows,
        "attempts_left_out": left_out,
    });
    Ok(JournalSummary {
        json,
        configuration,
    })
}

fn keep_newest(rows: &mut Vec<(u64, Value)>) {
    rows.sort_by_key(|(seq, _)| std::cmp::Reverse(*seq));
    rows.truncate(ATTEMPTS);
}

/// An attempt with its marks: what was written down about it before it was done.
fn row(id: AttemptId, record: &Record, acknowledged: bool) -> Value {
    let mut row = show::row(id, record, acknowledged);
    // What was wrong with a manifest may repeat a value from it.
    let reason = record.outcome.as_ref().map(v1::Outcome::reason);
    if reason == Some(FailureReason::ManifestInvalid) {
        row["outcome"]["message"] = Value::Null;
    }
    let switch = record.switch.as_ref();
    row["marks"] = json!({
        "run": record.run(),
        "accepted_seq": record.accepted_seq,
        "accepted_acknowledged": record.accepted_acked,
        "deferred": record.deferred.is_some(),
        "deferred_seq": record.deferred_seq,
        "deferred_acknowledged": record.deferred_acked,
        "script": record.started.as_ref().map(|started| &started.script),
        "switch": switch.map(|switch| json!({"from": switch.from, "to": switch.to})),
        "failing": record.failing.is_some(),
        "restarting": record.restarting.is_some(),
        "returning": record.returning.is_some(),
        "stop_going_back": record.stop_going_back,
        "overdue": record.overdue,
        "outcome_seq": record.outcome_seq,
    });
    row
}

#[cfg(test)]
mod tests {
    use kernex_proto::ids::TargetId;

    use super::*;
    use crate::journal::{BootInstant, Journal};

    fn id(number: u32) -> AttemptId {
        AttemptId {
            target: TargetId::generate(),
            number,
        }
    }

    #[test]
    fn a_journal_that_is_in_use_is_read_and_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        assert!(summary(&path).is_err());
        assert!(!path.exists(), "looking makes nothing");

        let (journal, _) = Journal::open(&path).unwrap();
        journal.confirm_epoch(7).unwrap();
        let command = v1::Command::default();
        let at = BootInstant::default();
        journal.accept(id(1), &command, at.clone()).unwrap();
        let invalid = id(2);
        journal.accept(invalid, &command, at).unwrap();
        let outcome = v1::Outcome {
            state: v1::AttemptState::Failed.into(),
            reason: FailureReason::ManifestInvalid.into(),
            message: "env: `hunter2` is no map".into(),
            output_tail: "the password is hunter2".into(),
            ..v1::Outcome::default()
        };
        journal
            .finish(invalid, outcome, None, String::new())
            .unwrap();
        let configure = v1::Configure {
            revision: 3,
            values: [("PASSWORD".to_owned(), "hunter2".to_owned())].into(),
            ..v1::Configure::default()
        };
        journal.configure(&configure).unwrap();

        // The journal is open, as in a running agent.
        let read = summary(&path).unwrap();
        assert_eq!(read.json["epoch"], 7);
        assert_eq!(
            (&read.json["open"], &read.json["acknowledged"]),
            (&json!(2), &json!(0))
        );
        let attempts = read.json["attempts"].as_array().unwrap();
        assert_eq!(attempts[0]["outcome"]["reason"], "manifest_invalid");
        assert_eq!(attempts[1]["marks"]["accepted_acknowledged"], false);
        assert!(!read.json.to_string().contains("hunter2"));
        assert_eq!(read.configuration.unwrap().revision, 3);
        journal.confirm_epoch(8).unwrap();
    }

    #[test]
    fn the_newest_attempts_are_told_and_the_rest_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        let (journal, _) = Journal::open(&path).unwrap();
        let command = v1::Command::default();
        for number in 1..=u32::try_from(ATTEMPTS).unwrap() + 2 {
            let at = BootInstant::default();
            journal.accept(id(number), &command, at).unwrap();
        }
        let read = summary(&path).unwrap().json;
        let attempts = read["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), ATTEMPTS);
        assert_eq!(attempts[0]["attempt"], ATTEMPTS + 2);
        assert_eq!(read["attempts_left_out"], 2);
    }

    #[test]
    fn a_damaged_journal_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        std::fs::write(&path, [b'x'; 9000]).unwrap();
        assert!(summary(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), [b'x'; 9000]);
    }
}
