//! Files that only their owner may read, such as keys and tokens. They are written whole or not at
//! all.

use std::{io::Write as _, path::Path};

use anyhow::Context as _;

use crate::crash::Act;

/// Begins the name of a private file while it is being written.
const UNFINISHED: &str = ".private-";

/// Writes a file that only its owner may read. It is there whole, or not at all.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    // The temporary file is made with mode 0600.
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(folder)
        .with_context(failed)?;
    file.write_all(content).with_context(failed)?;
    file.as_file().sync_all().with_context(failed)?;
    Act::FilePrivate.before();
    file.persist(path).with_context(failed)?;
    Act::FilePrivate.after();
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(failed)
}

/// Removes the private files of a process that died while it wrote them. There may be keys in them.
pub fn sweep_private(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_private_file_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        write_private(&dir.path().join("ca.key"), b"k").expect("writes");
        std::fs::write(dir.path().join(".private-Xy1"), "k").expect("writes");
        sweep_private(dir.path()).expect("sweeps");
        let left = std::fs::read_dir(dir.path()).expect("reads");
        let names: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["ca.key"]);
    }
}
