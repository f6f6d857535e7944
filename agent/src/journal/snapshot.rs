//! What the journal last held, kept in memory: a session reports it while the disk can no longer be
//! read or written.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use kernex_proto::ids::{AttemptId, JournalId};
use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, StorageBackend as _,
    WriteTransaction, backends::InMemoryBackend,
};
use uuid::Uuid;

use super::{
    JournalError, Record,
    store::{IDENTITY, LIVE, NUMBERS},
    tables::all_live,
};

/// Larger files are not read into memory: an agent has little.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// The state after the last write that reached the disk.
#[derive(Clone, Default)]
pub(super) struct Snapshot {
    pub(super) epoch: u64,
    pub(super) live: Vec<(AttemptId, Record)>,
}

impl Snapshot {
    /// The state that a transaction is about to commit.
    pub(super) fn of(tx: &WriteTransaction) -> Result<Self, JournalError> {
        let numbers = tx.open_table(NUMBERS)?;
        Ok(Self {
            epoch: numbers.get("epoch")?.map_or(0, |n| n.value()),
            live: all_live(&tx.open_table(LIVE)?)?,
        })
    }

    /// Reads a file that cannot be opened in place. `None` when nothing can be read from it.
    pub(super) fn read(path: &Path) -> Option<(JournalId, Self)> {
        read_copy(path, Self::parse).ok().flatten()
    }

    fn parse(database: &Database) -> Result<Option<(JournalId, Self)>, JournalError> {
        let tx = database.begin_read()?;
        let identity = tx.open_table(IDENTITY)?;
        let id = identity.get("id")?;
        let id = id.and_then(|bytes| Uuid::from_slice(bytes.value()).ok());
        let numbers = tx.open_table(NUMBERS)?;
        let snapshot = Self {
            epoch: numbers.get("epoch")?.map_or(0, |n| n.value()),
            live: all_live(&tx.open_table(LIVE)?)?,
        };
        Ok(id.map(|id| (JournalId(id), snapshot)))
    }
}

/// Reads a copy of the file in memory. Opening the file in place takes writing, and a running agent
/// holds its lock.
///
/// A copy of a file that is being written may be torn. That is an error: the pages carry checksums.
pub(super) fn read_copy<T>(
    path: &Path,
    read: impl FnOnce(&Database) -> Result<T, JournalError>,
) -> Result<T, JournalError> {
    let bytes = match fs::metadata(path)?.len() {
        0 => return Err(unreadable("the file is empty")),
        length if length > MOST_BYTES => return Err(unreadable("the file is over 64 MiB")),
        _ => fs::read(path)?,
    };
    // A torn file may make the library panic.
    catch_unwind(AssertUnwindSafe(|| read(&open_copy(&bytes)?)))
        .unwrap_or_else(|_| Err(unreadable("reading it panicked")))
}

fn open_copy(bytes: &[u8]) -> Result<Database, JournalError> {
    let backend = InMemoryBackend::new();
    let memory = |error| unreadable(&format!("{error:?}"));
    backend.set_len(bytes.len() as u64).map_err(memory)?;
    backend.write(0, bytes).map_err(memory)?;
    Ok(Builder::new().create_with_backend(backend)?)
}

fn unreadable(why: &str) -> JournalError {
    JournalError::Io(io::Error::other(why.to_owned()))
}
