//! A bundle on the device: fetched, verified, unpacked, active.
//!
//! Each bundle name has a directory of its own:
//!
//! ```text
//! <state>/bundles/<name>/
//!   releases/<folder>/     one unpacked release for each attempt
//!   about/<folder>.json    its metadata: version, digest, order
//!   archives/<digest>      archives of the bundles that releases are kept of
//!   current                symbolic link to one of the releases
//!   state/                 files that outlive releases (`$KERNEX_STATE_DIR`)
//! ```

use std::{fmt, fs, io, path::PathBuf};

use kernex_proto::{
    ids::{AttemptId, Digest, check_name},
    manifest::{MANIFEST_FILE, Manifest},
    units,
};
use serde::{Deserialize, Serialize};

use crate::{durable, removal::Remover};

pub(crate) mod activate;
pub(crate) mod archives;
pub(crate) mod fetch;
mod reconcile;
pub(crate) mod running;
pub(crate) mod unpack;

pub(crate) use reconcile::reconcile;

/// Space that is left free, so that the journal can always be written.
pub(crate) const RESERVE: u64 = 2 * 1024 * 1024;

/// The folders of one bundle name.
#[derive(Debug, Clone)]
pub(crate) struct BundleDir {
    root: PathBuf,
    remover: Remover,
}

/// What a release folder holds. Written before the folder gets its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReleaseMetadata {
    pub(crate) version: String,
    pub(crate) digest: String,
    /// Grows with each release of this journal: orders releases without a clock.
    pub(crate) order: u64,
}

impl BundleDir {
    /// Opens the directory of a bundle name and makes it when it is missing. The name comes from
    /// the wire and becomes a path, so it is checked.
    pub(crate) fn open(remover: &Remover, name: &str) -> io::Result<Self> {
        check_name("bundle name", name)
            .map_err(|err| io::Error::new(io::ErrorKind::InvalidInput, err))?;
        let bundle_dir = Self::at(remover, name);
        for dir in [
            bundle_dir.releases(),
            bundle_dir.state(),
            bundle_dir.metadata_dir(),
        ] {
            durable::create_dir(&dir)?;
        }
        Ok(bundle_dir)
    }

    /// The directory of a name that was checked; nothing is made.
    fn at(remover: &Remover, name: &str) -> Self {
        Self {
            root: remover.state_dir().join("bundles").join(name),
            remover: remover.clone(),
        }
    }

    /// Whether this bundle name has a directory.
    pub(crate) fn exists(remover: &Remover, name: &str) -> bool {
        Self::at(remover, name).root.is_dir()
    }

    pub(crate) fn all(remover: &Remover) -> Vec<Self> {
        let names = fs::read_dir(remover.state_dir().join("bundles"));
        let names = names.into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|name| Self::open(remover, &name).ok())
            .collect()
    }

    /// Every bundle name that has a directory; nothing is made.
    pub(crate) fn seen(remover: &Remover) -> Vec<Self> {
        let names = fs::read_dir(remover.state_dir().join("bundles"));
        let names = names.into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| check_name("bundle name", name).is_ok())
            .map(|name| Self::at(remover, &name))
            .collect()
    }

    pub(crate) fn name(&self) -> &str {
        let name = self.root.file_name();
        name.and_then(|name| name.to_str()).unwrap_or_default()
    }

    pub(crate) fn releases(&self) -> PathBuf {
        self.root.join("releases")
    }

    pub(crate) fn release(&self, folder: &str) -> PathBuf {
        self.releases().join(folder)
    }

    /// `$KERNEX_STATE_DIR` of the scripts: files that outlive releases.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    fn metadata_dir(&self) -> PathBuf {
        self.root.join("about")
    }

    fn metadata_path(&self, folder: &str) -> PathBuf {
        self.metadata_dir().join(format!("{folder}.json"))
    }

    /// Writes what a folder is going to hold.
    pub(crate) fn write_metadata(
        &self,
        folder: &str,
        metadata: &ReleaseMetadata,
    ) -> io::Result<()> {
        let json = serde_json::to_vec(metadata).map_err(io::Error::other)?;
        durable::replace(&self.metadata_path(folder), &json)
    }

    /// Removes what a crash left: half-written metadata, and metadata of releases that were never
    /// placed.
    fn sweep(&self) {
        durable::sweep(&self.metadata_dir());
        let described = fs::read_dir(self.metadata_dir()).into_iter().flatten();
        for path in described.flatten().map(|entry| entry.path()) {
            let folder = path.file_stem().and_then(|stem| stem.to_str());
            let gone = |folder| matches!(self.release(folder).try_exists(), Ok(false));
            if folder.is_some_and(gone) {
                durable::discard(&path);
            }
        }
        durable::discard(&self.root.join("current.tmp"));
    }

    /// Whether a release is kept. Removing one begins with its metadata, so a folder without
    /// metadata is to be removed.
    fn has_metadata(&self, folder: &str) -> bool {
        // An error here is no reason to remove anything.
        !matches!(self.metadata_path(folder).try_exists(), Ok(false))
    }

    /// What was written about a release; `None` when it does not exist, or is to be removed.
    pub(crate) fn metadata(&self, folder: &str) -> Option<ReleaseMetadata> {
        serde_json::from_slice(&fs::read(self.metadata_path(folder)).ok()?).ok()
    }

    /// Whether a release folder is there and holds this bundle.
    pub(crate) fn holds(&self, folder: &str, digest: &str) -> bool {
        // Metadata is written before the folder, so it alone proves nothing.
        self.release(folder).is_dir()
            && self
                .metadata(folder)
                .is_some_and(|metadata| metadata.digest == digest)
    }

    /// The newest release of a bundle that is on the device.
    pub(crate) fn newest_of(&self, digest: &str) -> Option<String> {
        fs::read_dir(self.releases())
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|folder| self.holds(folder, digest))
            .max_by_key(|folder| self.metadata(folder).map_or(0, |metadata| metadata.order))
    }

    /// The manifest of a release, or why it cannot be read.
    pub(crate) fn manifest(&self, folder: &str) -> Result<Manifest, String> {
        let path = self.release(folder).join(MANIFEST_FILE);
        let bytes = fs::read(&path).map_err(|err| format!("{}: {err}", path.display()))?;
        Manifest::parse(&bytes).map_err(|err| err.to_string())
    }
}

/// Name of the folder of one attempt. The version is free text; characters that do not belong in a
/// path become `_`.
pub(crate) fn folder_name(version: &str, digest: Digest, attempt: AttemptId) -> String {
    let version: String = version
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '+' => c,
            _ => '_',
        })
        .take(64)
        .collect();
    let digest = digest.to_string();
    // A UUIDv7 begins with the time, which neighbours share; its end is random.
    let target = attempt.target.0.simple().to_string();
    format!(
        "{version}-{}-{}-{}",
        &digest[..12],
        &target[24..],
        attempt.number
    )
    .trim_start_matches('.')
    .to_owned()
}

/// Tries again to remove releases that could not be removed before.
pub(crate) fn retry_removals(remover: &Remover) -> io::Result<()> {
    for bundle_dir in BundleDir::all(remover) {
        activate::retry_removals(&bundle_dir)?;
    }
    Ok(())
}

/// Whether `needed` more bytes fit. When they do not, archives that are kept are removed, and then
/// old releases.
pub(crate) async fn make_room(remover: &Remover, needed: u64) -> io::Result<Result<(), NoRoom>> {
    let remover = remover.clone();
    // Removing releases can take a while.
    tokio::task::spawn_blocking(move || make_room_now(&remover, needed))
        .await
        .map_err(io::Error::other)?
}

fn make_room_now(remover: &Remover, needed: u64) -> io::Result<Result<(), NoRoom>> {
    let wanted = needed.saturating_add(RESERVE);
    if crate::host::disk_space(remover.state_dir())?.free >= wanted {
        return Ok(Ok(()));
    }
    // Archives can be had again; going back to a release would need a download.
    archives::tidy(remover, 0);
    if crate::host::disk_space(remover.state_dir())?.free >= wanted {
        return Ok(Ok(()));
    }
    for bundle_dir in BundleDir::all(remover) {
        activate::remove_old(&bundle_dir, 0)?;
    }
    let free = crate::host::disk_space(remover.state_dir())?.free;
    Ok(if free >= wanted {
        Ok(())
    } else {
        Err(NoRoom {
            needed: wanted,
            free,
        })
    })
}

/// The disk is too small. A plan and a deploy say it in the same words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) struct NoRoom {
    /// Bytes that have to be free, with the reserve.
    pub(crate) needed: u64,
    /// Bytes that are free, or can be freed.
    pub(crate) free: u64,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, free } = *self;
        let (mut of_needed, mut of_free) = (units::bytes(needed), units::bytes(free));
        // Nearly the same: only the bytes tell them apart.
        if of_needed == of_free {
            (of_needed, of_free) = (format!("{needed} bytes"), format!("{free} bytes"));
        }
        write!(
            f,
            "not enough disk: {of_needed} are needed and {of_free} are free"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt() -> AttemptId {
        AttemptId {
            target: kernex_proto::ids::TargetId::generate(),
            number: 1,
        }
    }

    #[test]
    fn a_folder_name_is_never_a_path() {
        for version in [
            "1.0",
            "../../etc",
            ".hidden",
            "a/b",
            "v 1\n",
            &"x".repeat(500),
        ] {
            let name = folder_name(version, Digest::of(b""), attempt());
            assert!(
                !name.contains('/') && !name.starts_with('.') && name.len() < 120,
                "{name}"
            );
        }
    }

    #[test]
    fn no_room_says_more_needed_than_free() {
        let said = |needed, free| NoRoom { needed, free }.to_string();
        assert_eq!(
            said(24_105_402, 24_014_848),
            "not enough disk: 22.99 MiB are needed and 22.90 MiB are free"
        );
        assert_eq!(
            said(24_014_849, 24_014_848),
            "not enough disk: 24014849 bytes are needed and 24014848 bytes are free"
        );
        let dir = tempfile::tempdir().unwrap();
        let refused = make_room_now(&Remover::new(dir.path()), 1 << 60);
        let refused = refused.unwrap().unwrap_err();
        assert_eq!(refused.needed, (1 << 60) + RESERVE, "as it was compared");
    }

    #[test]
    fn targets_of_the_same_minute_get_different_folders() {
        let digest = Digest::of(b"");
        assert_ne!(
            folder_name("1", digest, attempt()),
            folder_name("1", digest, attempt())
        );
    }
}
