//! Whatever comes: the two walks agree, nothing leaves the folder, and a refusal leaves nothing.

use std::fs;

use proptest::prelude::*;
use tokio_tar::EntryType;

use super::{
    making::{Tar, gz},
    *,
};

fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => Just("a"), 6 => Just("b"), 3 => Just("c"), 2 => Just(".."), 1 => Just("."), 1 => Just("")
    ];
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn tar() -> impl Strategy<Value = Tar> {
    let kind = prop_oneof![
        Just(EntryType::Regular),
        Just(EntryType::Directory),
        Just(EntryType::Symlink),
        Just(EntryType::Link),
    ];
    prop::collection::vec((kind, name(), name()), 0..7).prop_map(|entries| {
        entries
            .into_iter()
            .fold(Tar::bundle(), |tar, (kind, name, link)| {
                let data: &[u8] = if kind == EntryType::Regular {
                    b"data"
                } else {
                    b""
                };
                tar.entry(kind, &name, &link, 0o755, data)
            })
    })
}

/// Every path below a folder; symbolic links are not followed.
fn walk_folder(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            walk_folder(&entry.path(), found);
        }
    }
}

fn check(archive: Vec<u8>) {
    let scratch = tempfile::tempdir().unwrap();
    // Names of what the links above might hit, were they followed.
    for outside in ["a", "b", "c"] {
        fs::write(scratch.path().join(outside), "outside").unwrap();
    }
    let into = scratch.path().join("into");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let (looked, unpacked) =
        runtime.block_on(async { (look(&archive).await, unpack_at(&archive, &into).await) });

    for outside in ["a", "b", "c"] {
        assert_eq!(fs::read(scratch.path().join(outside)).unwrap(), b"outside");
    }
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 4);
    let mut found = Vec::new();
    walk_folder(&into, &mut found);
    match (looked, unpacked) {
        (Ok(looked), Ok(unpacked)) => {
            assert_eq!(looked, unpacked);
            assert_eq!(found.len() as u64, unpacked.entries);
            let into = into.canonicalize().unwrap();
            for path in found {
                if let Ok(real) = path.canonicalize() {
                    assert!(real.starts_with(&into), "{} leads out", path.display());
                }
            }
        }
        (Err(looked), Err(unpacked)) => {
            assert_eq!(looked.to_string(), unpacked.to_string());
            nothing_in_place(&into);
        }
        (looked, unpacked) => panic!("{looked:?} but {unpacked:?}"),
    }
}

fn block_gz(bytes: &[u8]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(gz(bytes))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_entries_in_any_order(tar in tar()) {
        check(block_gz(&tar.closed()));
    }

    #[test]
    fn any_damage_to_the_tar(tar in tar(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut tar = tar.closed();
        let at = at.index(tar.len());
        tar[at] = byte;
        check(block_gz(&tar));
    }

    #[test]
    fn any_damage_to_the_compressed_bytes(tar in tar(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut archive = block_gz(&tar.closed());
        let at = at.index(archive.len());
        archive[at] = byte;
        check(archive);
    }
}
