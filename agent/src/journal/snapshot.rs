//! What the journal last held, kept in memory: a session reports it while the disk can no longer be
//! read or written.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use kernex_proto::ids::{AttemptId, JournalId};
use redb::{
    Builder, ReadableDatabase as _, ReadableTable as _, StorageBackend as _, WriteTransaction,
    backends::InMemoryBackend,
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

    /// Reads a file that cannot be opened in place, because opening takes writing. `None` when
    /// nothing can be read from it.
    pub(super) fn read(path: &Path) -> Option<(JournalId, Self)> {
        if fs::metadata(path).ok()?.len() > MOST_BYTES {
            return None;
        }
        let bytes = fs::read(path).ok().filter(|bytes| !bytes.is_empty())?;
        // A torn file may make the library panic.
        catch_unwind(AssertUnwindSafe(|| Self::parse(&bytes)))
            .ok()
            .and_then(Result::ok)
            .flatten()
    }

    fn parse(bytes: &[u8]) -> Result<Option<(JournalId, Self)>, JournalError> {
        let backend = InMemoryBackend::new();
        let memory = |why: String| JournalError::Io(std::io::Error::other(why));
        let length = bytes.len() as u64;
        let sized = backend.set_len(length);
        sized.map_err(|error| memory(format!("{error:?}")))?;
        let written = backend.write(0, bytes);
        written.map_err(|error| memory(format!("{error:?}")))?;
        let database = Builder::new().create_with_backend(backend)?;
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
