//! The file under the journal: opening it, setting a damaged one aside, and opening it again after
//! an I/O error.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use redb::{
    Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase as _,
    StorageError, TableDefinition, WriteTransaction,
};

use crate::{
    crash::Act,
    disk::{Disk, Fault},
};

/// Attempts that are open or whose outcome is not acknowledged, by target and number.
pub(super) const LIVE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("live");
/// Acknowledged attempts.
pub(super) const TOMBSTONES: TableDefinition<'static, &[u8], &[u8]> =
    TableDefinition::new("tombstones");
/// Tombstones by the seq of their outcome: the oldest first.
pub(super) const TOMBSTONE_ORDER: TableDefinition<'static, u64, &[u8]> =
    TableDefinition::new("tombstone_order");
/// What `current` names, by bundle name.
pub(super) const RELEASES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("releases");
/// Numbers: `epoch`, `seq`.
pub(super) const NUMBERS: TableDefinition<'static, &str, u64> = TableDefinition::new("numbers");
/// The journal's own id, under `id`, and the server's `configuration`.
pub(super) const IDENTITY: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("identity");

/// An agent has little memory, and the journal is small.
const CACHE_BYTES: usize = 1024 * 1024;

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("another kernex-agent is using {path}", path = .0.display())]
    InUse(PathBuf),
    #[error("cannot access the journal")]
    Io(#[from] io::Error),
    #[error("the journal failed")]
    Database(#[source] Box<redb::Error>),
    #[error("the journal holds a record that cannot be read")]
    Record(#[source] prost::DecodeError),
    /// The blocking task did not end.
    #[error("the journal's task was lost")]
    Lost,
}

macro_rules! from_redb {
    ($($kind:ty),+) => {$(
        impl From<$kind> for JournalError {
            fn from(err: $kind) -> Self {
                Self::Database(Box::new(err.into()))
            }
        }
    )+};
}

from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::DatabaseError,
    redb::TransactionError,
    redb::CommitError,
    redb::SetDurabilityError
);

impl From<prost::DecodeError> for JournalError {
    fn from(err: prost::DecodeError) -> Self {
        Self::Record(err)
    }
}

impl JournalError {
    /// The disk fault behind this error, if there is one.
    pub(crate) fn fault(&self) -> Option<Fault> {
        match self {
            Self::Io(error) => Fault::of(error),
            Self::Database(error) => match &**error {
                redb::Error::Io(error) => Fault::of(error),
                redb::Error::PreviousIo => Some(Fault::Io),
                _ => None,
            },
            Self::InUse(_) | Self::Record(_) | Self::Lost => None,
        }
    }
}

/// The database; `None` after an I/O error, until it is opened again.
pub(super) struct JournalStore {
    path: PathBuf,
    disk: Disk,
    database: Mutex<Option<Database>>,
}

impl JournalStore {
    /// Opens or creates the file. One that is damaged is moved aside; its new path is returned
    /// then.
    pub(super) fn open(
        path: &Path,
        check: impl Fn(&Self) -> Result<(), JournalError>,
    ) -> Result<(Self, Option<PathBuf>), JournalError> {
        let store = |database| Self::new(path, Some(database));
        // Frees the reserve of a full disk: opening needs a little space.
        disk_of(path).free_reserve_if_low();
        match open_database(path).map(store) {
            Ok(store) => match check(&store) {
                Err(JournalError::Record(_)) => drop(store),
                Err(err) => return Err(err),
                Ok(()) => return Ok((store, None)),
            },
            Err(Trouble::Damaged(why)) => tracing::error!(%why, "the journal is damaged"),
            Err(Trouble::Other(err)) => return Err(err),
        }
        let aside = set_aside(path)?;
        match open_database(path).map(store) {
            Ok(store) => check(&store).map(|()| (store, Some(aside))),
            Err(Trouble::Damaged(why)) => Err(JournalError::Io(io::Error::other(why))),
            Err(Trouble::Other(err)) => Err(err),
        }
    }

    /// Opens an existing file; a damaged one stays as it is.
    pub(super) fn existing(path: &Path) -> Result<Self, JournalError> {
        fs::metadata(path)?;
        let database = open_database(path).map_err(|trouble| match trouble {
            Trouble::Damaged(why) => JournalError::Io(io::Error::other(why)),
            Trouble::Other(err) => err,
        })?;
        Ok(Self {
            path: path.to_owned(),
            disk: Disk::without_reserve(path),
            database: Mutex::new(Some(database)),
        })
    }

    /// A file that cannot be opened now; each call tries again.
    pub(super) fn closed(path: &Path, met: Option<Fault>) -> Self {
        let store = Self::new(path, None);
        store.disk.note_result(met);
        store
    }

    fn new(path: &Path, database: Option<Database>) -> Self {
        Self {
            path: path.to_owned(),
            disk: disk_of(path),
            database: Mutex::new(database),
        }
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Runs a transaction and makes it durable before returning; `act` names its crash points.
    pub(super) fn write<T>(
        &self,
        act: Act,
        body: impl FnOnce(&WriteTransaction) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        self.disk.free_reserve_if_low();
        let written = self.with(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            let value = body(&transaction)?;
            act.before();
            transaction.commit()?;
            act.after();
            Ok(value)
        });
        match &written {
            Ok(_) => self.disk.note_result(None),
            Err(error) => {
                if let Some(fault) = error.fault() {
                    self.disk.note_result(Some(fault));
                }
            }
        }
        written
    }

    pub(super) fn read<T>(
        &self,
        body: impl FnOnce(&ReadTransaction) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        self.with(|database| body(&database.begin_read()?))
    }

    fn with<T>(
        &self,
        body: impl FnOnce(&Database) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let mut slot = self.database.lock();
        let database = match slot.take() {
            Some(database) => database,
            None => open_database(&self.path).map_err(|trouble| match trouble {
                Trouble::Damaged(why) => JournalError::Io(io::Error::other(why)),
                Trouble::Other(err) => err,
            })?,
        };
        let result = body(&database);
        // After an I/O error (a full disk, say) the database refuses everything until it is opened
        // again.
        if !result.as_ref().is_err_and(needs_reopening) {
            *slot = Some(database);
        }
        result
    }
}

fn disk_of(path: &Path) -> Disk {
    Disk::of(path.parent().unwrap_or_else(|| Path::new(".")))
}

fn needs_reopening(err: &JournalError) -> bool {
    matches!(err, JournalError::Database(err) if matches!(**err,
        redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_)))
}

enum Trouble {
    Damaged(String),
    Other(JournalError),
}

fn open_database(path: &Path) -> Result<Database, Trouble> {
    crate::durable::touch_private(path).map_err(|err| Trouble::Other(err.into()))?;
    let open = || {
        Builder::new()
            .set_cache_size(CACHE_BYTES)
            // Find a torn file here, and not by a panic in the middle of a deployment.
            .set_check_integrity_on_open(true)
            .create(path)
    };
    let Ok(opened) = catch_unwind(AssertUnwindSafe(open)) else {
        return Err(Trouble::Damaged("reading it panicked".to_owned()));
    };
    opened.map_err(|err| match err {
        DatabaseError::DatabaseAlreadyOpen => Trouble::Other(JournalError::InUse(path.to_owned())),
        DatabaseError::UpgradeRequired(_)
        | DatabaseError::RepairAborted
        | DatabaseError::Storage(StorageError::Corrupted(_)) => Trouble::Damaged(err.to_string()),
        DatabaseError::Storage(StorageError::Io(ref io))
            if matches!(
                io.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Trouble::Damaged(err.to_string())
        }
        DatabaseError::Storage(StorageError::Io(io)) => Trouble::Other(JournalError::Io(io)),
        other => Trouble::Other(other.into()),
    })
}

/// Renames the damaged file, so that it can be examined.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    for n in 1.. {
        let aside = path.with_extension(format!("redb.corrupt-{n}"));
        if !aside.exists() {
            Act::JournalSetAside.before();
            fs::rename(path, &aside)?;
            if let Some(parent) = path.parent() {
                crate::durable::sync_dir(parent)?;
            }
            Act::JournalSetAside.after();
            return Ok(aside);
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
