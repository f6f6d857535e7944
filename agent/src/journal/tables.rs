//! Small reads and writes inside a transaction of the journal.

use kernex_proto::{
    ids::{AttemptId, TargetId},
    v1,
};
use prost::Message as _;
use redb::{ReadableTable, ReadableTableMetadata as _, WriteTransaction};
use uuid::Uuid;

use super::{
    JournalError, Record, Release, ReleaseChange,
    store::{LIVE, NUMBERS, RELEASES, TOMBSTONE_ORDER, TOMBSTONES},
};

/// Tombstones kept whatever their age.
const KEEP_TOMBSTONES: u64 = 10_000;
/// Age until which the others are kept, in seconds.
const KEEP_SECONDS: i64 = 90 * 24 * 3600;
/// Bytes kept of the output in a tombstone: the server has all of it.
const TOMBSTONE_OUTPUT: usize = 4 * 1024;

/// Key of an attempt: target, then number, so that the attempts of a target are neighbours.
pub(super) fn key(id: AttemptId) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(id.target.0.as_bytes());
    key[16..].copy_from_slice(&id.number.to_be_bytes());
    key
}

pub(super) fn parse_key(key: &[u8]) -> Option<AttemptId> {
    let (target, number) = key.split_at_checked(16)?;
    Some(AttemptId {
        target: TargetId(Uuid::from_slice(target).ok()?),
        number: u32::from_be_bytes(number.try_into().ok()?),
    })
}

/// The record of an open attempt.
pub(super) fn live_record(
    tx: &WriteTransaction,
    id: AttemptId,
) -> Result<Option<Record>, JournalError> {
    let table = tx.open_table(LIVE)?;
    let bytes = table.get(key(id).as_slice())?;
    Ok(bytes
        .map(|bytes| Record::decode(bytes.value()))
        .transpose()?)
}

/// The record of an attempt, open or a tombstone.
pub(super) fn find(tx: &WriteTransaction, id: AttemptId) -> Result<Option<Record>, JournalError> {
    if let Some(record) = live_record(tx, id)? {
        return Ok(Some(record));
    }
    let table = tx.open_table(TOMBSTONES)?;
    let bytes = table.get(key(id).as_slice())?;
    Ok(bytes
        .map(|bytes| Record::decode(bytes.value()))
        .transpose()?)
}

pub(super) fn put_live(
    tx: &WriteTransaction,
    id: AttemptId,
    record: &Record,
) -> Result<(), JournalError> {
    tx.open_table(LIVE)?
        .insert(key(id).as_slice(), record.encode_to_vec().as_slice())?;
    Ok(())
}

pub(super) fn all_live(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
) -> Result<Vec<(AttemptId, Record)>, JournalError> {
    let mut records = Vec::new();
    for entry in table.iter()? {
        let (key, bytes) = entry?;
        if let Some(id) = parse_key(key.value()) {
            records.push((id, Record::decode(bytes.value())?));
        }
    }
    Ok(records)
}

/// Numbers reports; durable with the transaction that uses it.
pub(super) fn next_seq(tx: &WriteTransaction) -> Result<u64, JournalError> {
    let mut numbers = tx.open_table(NUMBERS)?;
    let seq = numbers.get("seq")?.map_or(0, |n| n.value()) + 1;
    numbers.insert("seq", seq)?;
    Ok(seq)
}

/// What runs under the bundle name of a deploy, as a message of the protocol.
pub(super) fn active_of(
    tx: &WriteTransaction,
    deploy: Option<&v1::Deploy>,
) -> Result<Option<Box<v1::ActiveRelease>>, JournalError> {
    let Some(deploy) = deploy else {
        return Ok(None);
    };
    let table = tx.open_table(RELEASES)?;
    let bytes = table.get(deploy.name.as_str())?;
    let release = bytes
        .map(|bytes| Release::decode(bytes.value()))
        .transpose()?;
    Ok(release.map(|release| Box::new(release.to_active(&deploy.name))))
}

pub(super) fn put_release(
    tx: &WriteTransaction,
    change: &ReleaseChange,
) -> Result<(), JournalError> {
    let mut table = tx.open_table(RELEASES)?;
    match &change.release {
        Some(release) => {
            table.insert(change.name.as_str(), release.encode_to_vec().as_slice())?;
        }
        None => {
            table.remove(change.name.as_str())?;
        }
    }
    Ok(())
}

/// Turns a live record whose outcome was acknowledged into a tombstone.
pub(super) fn bury(
    tx: &WriteTransaction,
    id: AttemptId,
    mut record: Record,
    unix_seconds: i64,
) -> Result<(), JournalError> {
    record.acked_unix_seconds = unix_seconds;
    if let Some(outcome) = &mut record.outcome {
        shorten(&mut outcome.output_tail);
        // The marks count bytes of the whole output.
        outcome.output_marks.clear();
    }
    let key = key(id);
    tx.open_table(LIVE)?.remove(key.as_slice())?;
    tx.open_table(TOMBSTONES)?
        .insert(key.as_slice(), record.encode_to_vec().as_slice())?;
    tx.open_table(TOMBSTONE_ORDER)?
        .insert(record.outcome_seq, key.as_slice())?;
    prune(tx, unix_seconds, KEEP_TOMBSTONES)
}

/// Removes the oldest tombstones, those beyond the number and the age to keep.
fn prune(tx: &WriteTransaction, unix_seconds: i64, keep: u64) -> Result<(), JournalError> {
    let mut order = tx.open_table(TOMBSTONE_ORDER)?;
    let mut buried = tx.open_table(TOMBSTONES)?;
    while order.len()? > keep {
        let Some((seq, key)) = order
            .first()?
            .map(|(seq, key)| (seq.value(), key.value().to_vec()))
        else {
            break;
        };
        let age = match buried.get(key.as_slice())? {
            Some(bytes) => unix_seconds - Record::decode(bytes.value())?.acked_unix_seconds,
            None => i64::MAX,
        };
        if age < KEEP_SECONDS {
            break;
        }
        buried.remove(key.as_slice())?;
        order.remove(seq)?;
    }
    Ok(())
}

fn shorten(text: &mut String) {
    if text.len() > TOMBSTONE_OUTPUT {
        let start = text.ceil_char_boundary(text.len() - TOMBSTONE_OUTPUT);
        text.drain(..start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crash::Act, journal::Journal};

    #[test]
    fn only_tombstones_that_are_surplus_and_old_go() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(&dir.path().join("journal.redb")).unwrap();
        let left = |now, keep| {
            let left = journal.store.write(Act::JournalOpen, |tx| {
                prune(tx, now, keep)?;
                let order = tx.open_table(TOMBSTONE_ORDER)?;
                assert_eq!(order.len()?, tx.open_table(TOMBSTONES)?.len()?);
                let seqs: Result<Vec<u64>, redb::StorageError> =
                    order.iter()?.map(|entry| Ok(entry?.0.value())).collect();
                Ok(seqs?)
            });
            left.unwrap()
        };
        for seq in 1..=4 {
            let id = AttemptId {
                target: TargetId::generate(),
                number: 1,
            };
            let record = Record {
                outcome_seq: seq,
                outcome: Some(v1::Outcome::default()),
                ..Record::default()
            };
            // Acknowledged a day apart.
            let day = i64::try_from(seq).unwrap() * 24 * 3600;
            journal
                .store
                .write(Act::JournalAck, |tx| bury(tx, id, record, day))
                .unwrap();
        }
        let days = |days: i64| days * 24 * 3600;
        assert_eq!(left(days(30), 1), [1, 2, 3, 4]);
        assert_eq!(left(days(92), 4), [1, 2, 3, 4]);
        assert_eq!(left(days(92), 1), [3, 4]);
        assert_eq!(left(days(1000), 1), [4]);
    }
}
