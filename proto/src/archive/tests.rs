//! Archives made by friends, by enemies and by chance.

mod friendly;
mod hostile;
#[cfg(feature = "lint")]
mod linted;
mod making;
mod random;

use std::path::Path;

use super::*;

async fn look(archive: &[u8]) -> Result<Inspected, ArchiveError> {
    inspect(archive, &Limits::default()).await
}

async fn unpack_at(archive: &[u8], into: &Path) -> Result<Inspected, ArchiveError> {
    unpack(archive, into, &Limits::default()).await
}

/// What was refused has left nothing but what the caller removes together with the folder.
fn nothing_in_place(into: &Path) {
    for entry in std::fs::read_dir(into).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(
            name.to_string_lossy().starts_with(unpack::STAGE),
            "{name:?}"
        );
    }
}

#[test]
fn formats_survive_the_wire_and_none_is_refused() {
    for format in [Format::TarGz, Format::TarZst] {
        assert_eq!(Format::try_from(v1::BundleFormat::from(format)), Ok(format));
    }
    assert_eq!(
        Format::try_from(v1::BundleFormat::Unspecified),
        Err(UnknownFormat)
    );
}

#[test]
fn a_full_disk_is_told_from_other_failures() {
    let reason = |code| ArchiveError::Io(io::Error::from_raw_os_error(code)).failure_reason();
    let (enospc, edquot, eio) = (28, 122, 5);
    assert_eq!(reason(enospc), v1::FailureReason::DiskFull);
    assert_eq!(reason(edquot), v1::FailureReason::DiskFull);
    assert_eq!(reason(eio), v1::FailureReason::Internal);
}

#[test]
fn limits_travel_and_what_is_not_said_is_as_ever() {
    let limits = Limits {
        max_unpacked_bytes: 5,
        max_entries: 6,
        max_ratio: 7,
    };
    assert_eq!(Limits::from(Some(limits.into())), limits);
    assert_eq!(Limits::from(None), Limits::default());
}

/// Callers run both on a pool of threads.
#[test]
fn the_futures_can_move_between_threads() {
    fn movable<T: Send>(_: &T) {}
    movable(&look(b""));
    movable(&unpack_at(b"", Path::new("never made")));
}
