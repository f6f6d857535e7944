//! The releases and archives of a support bundle: their digests and which of them is current, and
//! nothing of what is in them.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    bundle::{BundleDir, activate, archives},
    removal::Remover,
};

/// Most releases that are told of one bundle name.
const MOST: usize = 100;

/// Every bundle name, with what the device has of it.
pub(super) fn all(state_dir: &Path) -> Value {
    let mut bundles = BundleDir::seen(&Remover::new(state_dir));
    bundles.sort_by(|a, b| a.name().cmp(b.name()));
    bundles.iter().map(of).collect()
}

fn of(bundle_dir: &BundleDir) -> Value {
    let (current, error) = match activate::current(bundle_dir) {
        Ok(current) => (current, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let folders = fs::read_dir(bundle_dir.releases()).into_iter().flatten();
    let folders = folders.flatten().map(|entry| entry.file_name());
    let mut folders: Vec<String> = folders
        .take(MOST)
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    folders.sort();
    let releases: Value = folders
        .iter()
        .map(|folder| {
            // One without metadata is half-written, or is to be removed.
            let metadata = bundle_dir.metadata(folder);
            let digest = metadata.as_ref().map(|metadata| metadata.digest.as_str());
            json!({
                "folder": folder,
                "current": current.as_deref() == Some(folder),
                "digest": digest,
                "version": metadata.as_ref().map(|metadata| &metadata.version),
                "order": metadata.as_ref().map(|metadata| metadata.order),
                "archive_bytes": digest.and_then(|digest| archives::kept_bytes(bundle_dir, digest)),
            })
        })
        .collect();
    json!({
        "name": bundle_dir.name(),
        "current": current,
        "error": error,
        "releases": releases,
    })
}
