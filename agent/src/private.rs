//! Modes of the state folder. Other users may pass through it to `bundles`, because their programs
//! are started through `current`. Everything else in it is for the agent alone.

use std::{fs, io, path::Path};

use kernex_proto::private::restrict;

use crate::durable;

/// The state folder: known names can be reached, nobody can list them.
const STATE_FOLDER: u32 = 0o711;
/// The folder with the programs to run.
const BUNDLES: &str = "bundles";

/// Makes the state folder when it is missing, and removes the rights of others in it.
pub(crate) fn restrict_state_dir(state_dir: &Path) -> io::Result<()> {
    if !state_dir.is_dir() {
        durable::create_dir(state_dir)?;
    }
    restrict(state_dir, STATE_FOLDER)?;
    for entry in fs::read_dir(state_dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() {
            restrict(&entry.path(), 0o600)?;
        } else if kind.is_dir() && entry.file_name() != BUNDLES {
            restrict(&entry.path(), 0o700)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn others_get_to_the_bundles_and_to_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        restrict_state_dir(&state).unwrap();
        fs::create_dir(state.join("tmp")).unwrap();
        fs::create_dir(state.join(BUNDLES)).unwrap();
        fs::write(state.join("journal.redb"), "").unwrap();
        let modes = [
            ("", 0o777, 0o711),
            ("tmp", 0o755, 0o700),
            (BUNDLES, 0o755, 0o755),
            ("journal.redb", 0o644, 0o600),
        ];
        for (name, before, _) in modes {
            fs::set_permissions(state.join(name), Permissions::from_mode(before)).unwrap();
        }
        restrict_state_dir(&state).unwrap();
        for (name, _, after) in modes {
            let mode = fs::metadata(state.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, after, "{name}");
        }
        // A narrower mode stays.
        fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
        restrict_state_dir(&state).unwrap();
        let mode = fs::metadata(&state).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }
}
