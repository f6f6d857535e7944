//! Writes the entries that passed the checks: into a staging folder, synced, and only then into
//! place.
//!
//! During the walk there is no symbolic link below the staging folder, and every parent was made
//! here. So a path of plain components cannot lead elsewhere. Files are made with `O_EXCL`, folders
//! with a `mkdir` that must succeed.
//!
//! Folders, small files and copies are written on the thread of the walk, which must be one that
//! may block: there can be very many of them, and each hand-over would cost more than the file.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use tokio::{io::AsyncWriteExt as _, task::JoinSet};

use super::{
    durable::Durable,
    path::EntryPath,
    tree::{Node, Walked},
};

/// Files being synced at once: a journalling file system commits them together, and few are open.
const PARALLEL_SYNCS: usize = 16;

/// A file of up to so many bytes is held in memory and written at once.
const SMALL_BYTES: usize = 64 * 1024;

/// Where an archive is written to.
pub(super) struct Disk {
    into: PathBuf,
    stage: PathBuf,
    durable: Durable,
    syncs: JoinSet<io::Result<()>>,
}

/// A file that is being written.
pub(super) enum Writing {
    /// All of it so far.
    Small { path: PathBuf, bytes: Vec<u8> },
    /// It is larger than the memory for small files.
    Large(tokio::fs::File),
}

impl Writing {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Self::Small {
            path,
            bytes: written,
        } = self
        {
            if written.len() + bytes.len() <= SMALL_BYTES {
                written.extend_from_slice(bytes);
                return Ok(());
            }
            let mut file = new_file(path)?;
            file.write_all(written)?;
            *self = Self::Large(tokio::fs::File::from_std(file));
        }
        match self {
            Self::Small { .. } => Ok(()),
            Self::Large(file) => file.write_all(bytes).await,
        }
    }

    /// The file, with all its bytes handed to the kernel.
    async fn written(self) -> io::Result<File> {
        match self {
            Self::Small { path, bytes } => {
                let mut file = new_file(&path)?;
                file.write_all(&bytes)?;
                Ok(file)
            }
            Self::Large(mut file) => {
                file.flush().await?;
                Ok(file.into_std().await)
            }
        }
    }
}

impl Disk {
    /// Makes `into` if it does not exist, fails if it is not empty, and makes a staging folder
    /// below it.
    pub(super) fn prepare(into: &Path) -> io::Result<Self> {
        fs::create_dir_all(into)?;
        if fs::read_dir(into)?.next().is_some() {
            return Err(io::Error::new(
                io::ErrorKind::DirectoryNotEmpty,
                "the folder to unpack into is not empty",
            ));
        }
        let disk = Self {
            durable: Durable::below(into)?,
            into: into.to_path_buf(),
            stage: into.join(format!("{STAGE}{}", uuid::Uuid::new_v4())),
            syncs: JoinSet::new(),
        };
        make_folder(&disk.stage)?;
        Ok(disk)
    }

    pub(super) fn folder(&mut self, path: &EntryPath) -> io::Result<()> {
        make_folder(&self.stage.join(on_disk(path)))
    }

    pub(super) fn create(&mut self, path: &EntryPath) -> Writing {
        Writing::Small {
            path: self.stage.join(on_disk(path)),
            bytes: Vec::new(),
        }
    }

    /// Waits for the bytes to be written; syncing goes on behind.
    pub(super) async fn close(&mut self, file: Writing, mode: u32) -> io::Result<()> {
        self.seal(file.written().await?, mode).await
    }

    /// Unpacks a hard link: a copy shares nothing with the file it was linked to.
    pub(super) async fn copy(
        &mut self,
        from: &EntryPath,
        to: &EntryPath,
        mode: u32,
    ) -> io::Result<()> {
        let (from, to) = (self.stage.join(on_disk(from)), self.stage.join(on_disk(to)));
        let mut copy = new_file(&to)?;
        io::copy(&mut File::open(from)?, &mut copy)?;
        self.seal(copy, mode).await
    }

    /// Makes the links, gives folders their modes, moves everything into place and makes it
    /// durable.
    pub(super) async fn finish(&mut self, walked: &Walked) -> io::Result<()> {
        while let Some(done) = self.syncs.join_next().await {
            done.map_err(io::Error::other)??;
        }
        let mut folders = Vec::new();
        let mut litter = Vec::new();
        let on_stage = |path| self.stage.join(on_disk(path));
        for (path, node) in walked.tree.iter() {
            let is_inside = path.below(&walked.root).is_some();
            match node {
                // Beside the folder that is the bundle; its links were not made.
                Node::Folder { .. } if !is_inside => litter.push(on_stage(path)),
                Node::File { .. } if !is_inside => fs::remove_file(on_stage(path))?,
                Node::Symlink { target } if is_inside => {
                    symlink(OsStr::from_bytes(target), on_stage(path))?;
                }
                Node::Folder { mode } => folders.push((on_disk(path), mode.unwrap_or(0o755))),
                Node::File { .. } | Node::Symlink { .. } => {}
            }
        }
        for folder in litter.iter().rev() {
            fs::remove_dir(folder)?;
        }
        for (path, mode) in folders.iter().rev() {
            let folder = File::open(self.stage.join(path))?;
            set_mode(&folder, *mode)?;
            self.durable.sync_now(&folder)?;
        }
        let root = self.stage.join(on_disk(&walked.root));
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            fs::rename(entry.path(), self.into.join(entry.file_name()))?;
        }
        // What is left of the staging folder is empty: the folder that was the bundle, if there was
        // one, and itself.
        for folder in root.ancestors() {
            fs::remove_dir(folder)?;
            if folder == self.stage {
                break;
            }
        }
        // Whatever the umask says: programs of other users are started from here.
        fs::set_permissions(&self.into, Permissions::from_mode(0o755))?;
        self.durable.finish(&self.into, || {
            let nodes = walked.tree.iter().filter_map(|(path, node)| {
                let path = path.below(&walked.root)?;
                let is_link = matches!(node, Node::Symlink { .. });
                (!is_link).then(|| self.into.join(on_disk(&path)))
            });
            nodes.collect()
        })
    }

    /// Waits for running writes to end; the caller removes what was written.
    pub(super) async fn abandon(mut self) {
        while self.syncs.join_next().await.is_some() {}
    }

    /// Sets the mode and syncs, the latter behind and a bounded number at once.
    async fn seal(&mut self, file: File, mode: u32) -> io::Result<()> {
        set_mode(&file, mode)?;
        if !self.durable.takes_each() {
            return Ok(());
        }
        while self.syncs.len() >= PARALLEL_SYNCS {
            match self.syncs.join_next().await {
                Some(done) => done.map_err(io::Error::other)??,
                None => break,
            }
        }
        self.syncs.spawn_blocking(move || file.sync_all());
        Ok(())
    }
}

/// How the name of a staging folder begins; an id follows.
pub(super) const STAGE: &str = ".unpack-";

/// A path of plain components, so nothing that is joined with it is replaced.
fn on_disk(path: &EntryPath) -> &Path {
    Path::new(OsStr::from_bytes(path.as_bytes()))
}

/// Private until the modes of the archive are set.
fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn new_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)
}

/// The owner keeps what it takes to read the file or to remove the folder later.
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    let owner = match file.metadata()?.is_dir() {
        true => 0o700,
        false => 0o400,
    };
    file.set_permissions(Permissions::from_mode(mode | owner))
}
