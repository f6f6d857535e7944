//! Writing what the walk found good: into a staging folder, synced, and only then in place.
//!
//! During the walk there is no symbolic link below the staging folder and every parent was made here, so a path of
//! plain components cannot lead elsewhere; files are made with `O_EXCL`, folders with a `mkdir` that must succeed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use tokio::{io::AsyncWriteExt as _, task::JoinSet};

use super::{tree::Node, walk::Walked};

/// Files being synced at once: a journalling file system commits them together, and few are open.
const PARALLEL_SYNCS: usize = 16;

/// Where an archive is written to.
pub(super) struct Disk {
    into: PathBuf,
    stage: PathBuf,
    syncs: JoinSet<io::Result<()>>,
}

/// A file that is being written.
pub(super) struct Writing(tokio::fs::File);

impl Writing {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }
}

impl Disk {
    /// Makes `into` if it is not there, insists on its being empty, and stages below it.
    pub(super) async fn prepare(into: &Path) -> io::Result<Self> {
        let into = into.to_path_buf();
        let stage = into.join(format!(".unpack-{}", uuid::Uuid::new_v4()));
        let disk = Self {
            into,
            stage,
            syncs: JoinSet::new(),
        };
        let (into, stage) = (disk.into.clone(), disk.stage.clone());
        blocking(move || {
            fs::create_dir_all(&into)?;
            if fs::read_dir(&into)?.next().is_some() {
                return Err(io::Error::new(
                    io::ErrorKind::DirectoryNotEmpty,
                    "the folder to unpack into is not empty",
                ));
            }
            make_folder(&stage)
        })
        .await?;
        Ok(disk)
    }

    pub(super) async fn folder(&mut self, path: &Path) -> io::Result<()> {
        let path = self.stage.join(path);
        blocking(move || make_folder(&path)).await
    }

    pub(super) async fn create(&mut self, path: &Path) -> io::Result<Writing> {
        let path = self.stage.join(path);
        let file = blocking(move || new_file(&path)).await?;
        Ok(Writing(tokio::fs::File::from_std(file)))
    }

    /// Waits for the bytes to be written; setting the mode and syncing go on behind.
    pub(super) async fn close(&mut self, Writing(mut file): Writing, mode: u32) -> io::Result<()> {
        file.flush().await?;
        let file = file.into_std().await;
        self.behind(move || seal(&file, mode)).await
    }

    /// Unpacks a hard link: a copy shares nothing with the file it was linked to.
    pub(super) async fn copy(&mut self, from: &Path, to: &Path, mode: u32) -> io::Result<()> {
        let (from, to) = (self.stage.join(from), self.stage.join(to));
        let file = blocking(move || {
            let mut copy = new_file(&to)?;
            io::copy(&mut File::open(from)?, &mut copy)?;
            Ok(copy)
        })
        .await?;
        self.behind(move || seal(&file, mode)).await
    }

    /// Makes the links, gives folders their modes, syncs everything and moves it into place.
    pub(super) async fn finish(&mut self, walked: &Walked) -> io::Result<()> {
        while let Some(done) = self.syncs.join_next().await {
            done.map_err(io::Error::other)??;
        }
        let stage = self.stage.clone();
        let mut links = Vec::new();
        let mut folders = Vec::new();
        for (path, node) in walked.tree.iter() {
            match node {
                Node::Symlink { target } => links.push((stage.join(path), target.clone())),
                Node::Folder { mode } => folders.push((stage.join(path), mode.unwrap_or(0o755))),
                Node::File { .. } => {}
            }
        }
        let (into, root) = (self.into.clone(), stage.join(&walked.root));
        blocking(move || {
            for (path, target) in links {
                symlink(target, path)?;
            }
            for (path, mode) in folders.iter().rev() {
                seal(&File::open(path)?, *mode)?;
            }
            for entry in fs::read_dir(&root)? {
                let entry = entry?;
                fs::rename(entry.path(), into.join(entry.file_name()))?;
            }
            fs::remove_dir_all(&stage)?;
            File::open(&into)?.sync_all()
        })
        .await
    }

    /// Removes what was written, as far as that goes; the caller has the error that matters.
    pub(super) async fn discard(mut self) {
        // A sync still running would only hold the space a little longer.
        while self.syncs.join_next().await.is_some() {}
        let (into, stage) = (self.into, self.stage);
        let removed = blocking(move || {
            fs::remove_dir_all(&stage).or_else(absent_is_fine)?;
            for entry in fs::read_dir(&into)? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => fs::remove_dir_all(entry.path())?,
                    false => fs::remove_file(entry.path())?,
                }
            }
            Ok(())
        })
        .await;
        if let Err(error) = removed {
            tracing::warn!(error = %error, "could not remove a partly unpacked archive");
        }
    }

    /// Runs work nobody waits for yet, a bounded number at once.
    async fn behind(
        &mut self,
        work: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        while self.syncs.len() >= PARALLEL_SYNCS {
            match self.syncs.join_next().await {
                Some(done) => done.map_err(io::Error::other)??,
                None => break,
            }
        }
        self.syncs.spawn_blocking(work);
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}

/// Nobody else looks in before the modes of the archive are set.
fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn new_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)
}

/// Sets the mode and syncs. The owner keeps what it takes to read the file or to remove the folder later.
fn seal(file: &File, mode: u32) -> io::Result<()> {
    let owner = match file.metadata()?.is_dir() {
        true => 0o700,
        false => 0o400,
    };
    file.set_permissions(Permissions::from_mode(mode | owner))?;
    file.sync_all()
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}
