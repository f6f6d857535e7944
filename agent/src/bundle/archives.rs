//! Archives that are kept, so that what a device has had is not downloaded again.
//!
//! `archives/<digest>` in a bundle directory: one for each digest that a release is kept of, as far
//! as the setting of disk allows. It is only ever a copy of what the server has. So it may go at
//! any moment, and it goes first when the disk is short. Its bytes are hashed before each use:
//! scripts, disks and power cuts may have changed them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use kernex_proto::digest::{Digest, Hasher};
use tokio_util::sync::CancellationToken;

use super::BundleDir;
use crate::{crash::Act, durable, removal::Remover};

/// Bytes that are hashed at once.
const PIECE: usize = 256 * 1024;

/// Without a setting, archives may take one part in so many of their file system.
const USUAL_PART: u64 = 10;

/// Most bytes that all archives of an agent may take together.
pub(crate) fn limit(remover: &Remover, setting: Option<u64>) -> u64 {
    setting.unwrap_or_else(|| {
        crate::host::disk_space(remover.state_dir()).map_or(0, |space| space.total / USUAL_PART)
    })
}

/// Links the archive of a digest to `path`, if it is kept and its bytes still have that digest.
/// Returns `false` when it has to be downloaded. The archive may be removed meanwhile: the link
/// stays.
pub(crate) async fn lend(
    bundle_dir: &BundleDir,
    digest: Digest,
    path: &Path,
    halt: &CancellationToken,
) -> io::Result<bool> {
    let (bundle_dir, path, halt) = (bundle_dir.clone(), path.to_owned(), halt.clone());
    tokio::task::spawn_blocking(move || lend_now(&bundle_dir, digest, &path, &halt))
        .await
        .map_err(io::Error::other)?
}

fn lend_now(
    bundle_dir: &BundleDir,
    digest: Digest,
    path: &Path,
    halt: &CancellationToken,
) -> io::Result<bool> {
    let kept = archive(bundle_dir, digest);
    // Left by an earlier try of the same attempt.
    durable::discard(path);
    match fs::hard_link(&kept, path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            tracing::warn!(path = %kept.display(), %error, "the archive that is kept is of no use");
            return Ok(false);
        }
    }
    let found = digest_of(path, halt);
    if let Ok(found) = &found
        && *found == digest
    {
        return Ok(true);
    }
    durable::discard(path);
    if halt.is_cancelled() {
        return Err(io::Error::other("the attempt was halted"));
    }
    match found {
        Ok(found) => {
            tracing::warn!(wanted = %digest, %found, "the archive that was kept is damaged")
        }
        Err(error) => {
            tracing::warn!(wanted = %digest, %error, "cannot read the archive that was kept")
        }
    }
    let _ = bundle_dir.remover.remove(&kept);
    Ok(false)
}

fn digest_of(path: &Path, halt: &CancellationToken) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hash = Hasher::new();
    let mut piece = vec![0; PIECE];
    loop {
        if halt.is_cancelled() {
            return Err(io::Error::other("the attempt was halted"));
        }
        match file.read(&mut piece) {
            Ok(0) => return Ok(hash.finish()),
            Ok(read) => hash.update(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Keeps an archive whose digest was checked and whose bytes are synced. One that is larger than
/// `limit` by itself stays at `path`.
pub(crate) fn keep(
    bundle_dir: &BundleDir,
    digest: Digest,
    path: &Path,
    limit: u64,
) -> io::Result<()> {
    if fs::metadata(path)?.len() > limit {
        return Ok(());
    }
    // Other users of the machine may not read bundles.
    durable::create_private_dir(&folder(bundle_dir))?;
    Act::ArchiveKeep.before();
    // After `lend` both names are links to one file, and this rename changes nothing.
    fs::rename(path, archive(bundle_dir, digest))?;
    durable::sync_dir(&folder(bundle_dir))?;
    Act::ArchiveKeep.after();
    Ok(())
}

/// Removes the archive of a digest, unless a release of it is kept.
pub(crate) fn forget(bundle_dir: &BundleDir, digest: &str) {
    if bundle_dir.newest_of(digest).is_none()
        && let Ok(digest) = digest.parse()
    {
        // What cannot be removed is remembered by the remover.
        let _ = bundle_dir.remover.remove(&archive(bundle_dir, digest));
    }
}

/// Bytes of the archive of a digest, when it is kept. Nobody has hashed them yet.
pub(crate) fn kept_bytes(bundle_dir: &BundleDir, digest: &str) -> Option<u64> {
    let digest: Digest = digest.parse().ok()?;
    let seen = fs::symlink_metadata(archive(bundle_dir, digest)).ok()?;
    seen.is_file().then_some(seen.len())
}

/// Removes archives of digests that no release is kept of, then the oldest ones until the rest fits
/// into `limit` bytes.
pub(crate) fn tidy(remover: &Remover, limit: u64) {
    let mut kept = Vec::new();
    for bundle_dir in BundleDir::all(remover) {
        let orders = newest_orders(&bundle_dir);
        for (path, bytes) in all(&bundle_dir) {
            let digest = path.file_name().and_then(|name| name.to_str());
            match digest.and_then(|digest| orders.get(digest)) {
                Some(order) => kept.push((*order, path, bytes)),
                // What cannot be removed is remembered by the remover.
                None => drop(remover.remove(&path)),
            }
        }
    }
    for path in surplus(kept, limit) {
        tracing::info!(path = %path.display(), "removing an archive, for the disk");
        let _ = remover.remove(&path);
    }
}

/// Bytes of all archives except the one of this digest.
pub(crate) fn bytes_beside(remover: &Remover, name: &str, digest: &str) -> u64 {
    let mut bytes = 0;
    for bundle_dir in BundleDir::all(remover) {
        let is_its = bundle_dir.root.file_name().is_some_and(|own| own == name);
        for (path, size) in all(&bundle_dir) {
            if !(is_its && path.file_name().is_some_and(|own| own == digest)) {
                bytes += size;
            }
        }
    }
    bytes
}

/// The archives beyond the limit: newer ones stay.
fn surplus(mut kept: Vec<(u64, PathBuf, u64)>, limit: u64) -> Vec<PathBuf> {
    kept.sort_unstable();
    kept.reverse();
    let mut taken: u64 = 0;
    let over = kept.into_iter().filter(|(_, _, bytes)| {
        let with = taken.saturating_add(*bytes);
        let fits = with <= limit;
        if fits {
            taken = with;
        }
        !fits
    });
    over.map(|(_, path, _)| path).collect()
}

/// The digests that releases are kept of, each with the order of its newest.
fn newest_orders(bundle_dir: &BundleDir) -> BTreeMap<String, u64> {
    let mut orders = BTreeMap::new();
    let folders = fs::read_dir(bundle_dir.releases()).into_iter().flatten();
    for folder in folders.flatten() {
        let Some(metadata) = folder
            .file_name()
            .to_str()
            .and_then(|folder| bundle_dir.metadata(folder))
        else {
            continue;
        };
        let newest = orders.entry(metadata.digest).or_default();
        *newest = metadata.order.max(*newest);
    }
    orders
}

/// The archives of a bundle name, with their sizes in bytes.
fn all(bundle_dir: &BundleDir) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(folder(bundle_dir)).into_iter().flatten();
    let sized = entries.flatten().map(|entry| {
        let bytes = entry.metadata().map_or(0, |seen| seen.len());
        (entry.path(), bytes)
    });
    sized.collect()
}

fn folder(bundle_dir: &BundleDir) -> PathBuf {
    bundle_dir.root.join("archives")
}

fn archive(bundle_dir: &BundleDir, digest: Digest) -> PathBuf {
    folder(bundle_dir).join(digest.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{ReleaseMetadata, activate};

    fn kept(bundle_dir: &BundleDir) -> Vec<String> {
        let mut names: Vec<String> = all(bundle_dir)
            .into_iter()
            .filter_map(|(path, _)| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        names
    }

    /// A release of these bytes, with its archive.
    fn release(dir: &Path, bundle_dir: &BundleDir, folder: &str, bytes: &[u8], order: u64) {
        let digest = Digest::of(bytes);
        fs::create_dir(bundle_dir.release(folder)).unwrap();
        let metadata = ReleaseMetadata {
            digest: digest.to_string(),
            order,
            ..ReleaseMetadata::default()
        };
        bundle_dir.write_metadata(folder, &metadata).unwrap();
        let fetched = dir.join("fetched");
        fs::write(&fetched, bytes).unwrap();
        keep(bundle_dir, digest, &fetched, u64::MAX).unwrap();
        assert!(!fetched.exists());
    }

    #[tokio::test]
    async fn what_is_kept_is_lent_as_long_as_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let bundle_dir = BundleDir::open(&Remover::new(dir.path()), "app").unwrap();
        let (digest, lent) = (Digest::of(b"bytes"), dir.path().join("lent"));
        let halt = CancellationToken::new();
        let lend = || lend(&bundle_dir, digest, &lent, &halt);
        assert!(!lend().await.unwrap(), "nothing is kept yet");
        release(dir.path(), &bundle_dir, "one", b"bytes", 1);
        assert!(lend().await.unwrap());
        assert_eq!(fs::read(&lent).unwrap(), b"bytes");
        // Once more, as after a crash; and the disk may need the archive meanwhile.
        assert!(lend().await.unwrap());
        tidy(&bundle_dir.remover, 0);
        assert_eq!(kept(&bundle_dir), [""; 0]);
        assert_eq!(fs::read(&lent).unwrap(), b"bytes");
        keep(&bundle_dir, digest, &lent, u64::MAX).unwrap();
        fs::write(archive(&bundle_dir, digest), b"bytez").unwrap();
        assert!(!lend().await.unwrap(), "it is damaged");
        assert!(!lent.exists() && kept(&bundle_dir).is_empty());
        release(dir.path(), &bundle_dir, "two", b"bytes", 2);
        halt.cancel();
        assert!(lend().await.is_err(), "nobody waits for it");
        assert!(!lent.exists() && kept(&bundle_dir).len() == 1);
    }

    #[test]
    fn an_archive_goes_with_the_last_release_of_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let bundle_dir = BundleDir::open(&Remover::new(dir.path()), "app").unwrap();
        release(dir.path(), &bundle_dir, "one", b"1", 1);
        release(dir.path(), &bundle_dir, "two", b"2", 2);
        release(dir.path(), &bundle_dir, "again", b"2", 3);
        tidy(&bundle_dir.remover, u64::MAX);
        assert_eq!(kept(&bundle_dir).len(), 2);
        activate::remove(&bundle_dir, "one").unwrap();
        activate::remove(&bundle_dir, "again").unwrap();
        assert_eq!(kept(&bundle_dir), [Digest::of(b"2").to_string()]);
        // As after a crash between the two.
        let left = archive(&bundle_dir, Digest::of(b"3"));
        fs::write(&left, b"3").unwrap();
        tidy(&bundle_dir.remover, u64::MAX);
        assert!(!left.exists());
    }

    #[test]
    fn the_newest_stay_within_the_limit() {
        let path = |name: &str| PathBuf::from(name);
        let three = vec![
            (1, path("old"), 10),
            (3, path("new"), 10),
            (2, path("large"), 100),
        ];
        assert_eq!(surplus(three.clone(), 120), [""; 0].map(path));
        assert_eq!(surplus(three.clone(), 110), [path("old")]);
        assert_eq!(surplus(three.clone(), 20), [path("large")]);
        assert_eq!(surplus(three, 0).len(), 3);
    }

    #[test]
    fn one_that_is_larger_than_the_limit_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let bundle_dir = BundleDir::open(&Remover::new(dir.path()), "app").unwrap();
        let fetched = dir.path().join("fetched");
        fs::write(&fetched, b"bytes").unwrap();
        keep(&bundle_dir, Digest::of(b"bytes"), &fetched, 4).unwrap();
        assert!(fetched.exists() && kept(&bundle_dir).is_empty());
    }
}
