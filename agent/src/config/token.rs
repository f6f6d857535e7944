//! Where the enrolment token comes from when it is not on the command line, which every user of the
//! machine can read.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// Variable with the folder of the credentials that systemd hands to a unit (`LoadCredential=`).
pub(super) const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

const CREDENTIAL: &str = "kernex-agent.token";

/// Means standard input.
const STDIN: &str = "-";

/// Most bytes that are read; no token is longer.
const MOST: u64 = 4096;

/// A token, and where it was found.
pub(super) type Found = (String, String);

/// The token in the named file, or in systemd's credential when no file is named; `None` when there
/// is neither.
pub(super) fn read(
    named: Option<PathBuf>,
    credentials: Option<OsString>,
) -> anyhow::Result<Option<Found>> {
    let path = match (named, credentials) {
        (Some(path), _) if path == Path::new(STDIN) => {
            let text =
                take(io::stdin()).context("cannot read the enrolment token from standard input")?;
            return Ok(Some((text, "standard input".to_owned())));
        }
        (Some(path), _) => path,
        (None, Some(folder)) => {
            let path = Path::new(&folder).join(CREDENTIAL);
            if !path.exists() {
                return Ok(None);
            }
            path
        }
        (None, None) => return Ok(None),
    };
    let text = File::open(&path).and_then(take);
    let text =
        text.with_context(|| format!("cannot read the enrolment token in {}", path.display()))?;
    Ok(Some((text, path.display().to_string())))
}

fn take(reader: impl Read) -> io::Result<String> {
    let mut text = String::new();
    reader.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_wins_over_the_credential_and_a_missing_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let named = dir.path().join("token");
        std::fs::write(&named, "kxe1.named\n").unwrap();
        let folder = Some(dir.path().as_os_str().to_owned());
        let read = |path: Option<&Path>| {
            let found = read(path.map(Path::to_owned), folder.clone())?;
            anyhow::Ok(found.map(|(text, _)| text))
        };
        assert_eq!(read(None).unwrap(), None);
        std::fs::write(dir.path().join(CREDENTIAL), "kxe1.credential").unwrap();
        assert_eq!(read(None).unwrap().as_deref(), Some("kxe1.credential"));
        assert_eq!(read(Some(&named)).unwrap().as_deref(), Some("kxe1.named\n"));
        let why = read(Some(&dir.path().join("none")))
            .unwrap_err()
            .to_string();
        assert!(why.contains("none"), "{why}");
        assert_eq!(super::read(None, None).unwrap(), None);
    }
}
