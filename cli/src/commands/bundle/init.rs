//! `bundle init`

use std::{fs, io::Write as _, path::Path};

use kernex_proto::ids::check_name;

use crate::{error::Failure, files, output::print_note, pack::IGNORE_FILE};

/// Writes the files of a small bundle; existing files stay.
pub(super) fn run(dir: &Path, name: Option<String>) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| Failure::file("create", dir, &error))?;
    let name = match name {
        Some(name) => {
            check_name("bundle name", &name).map_err(|error| {
                Failure::usage(
                    error.to_string(),
                    "Use letters, digits, `.`, `_` and `-`, starting with a letter or digit.",
                )
            })?;
            name
        }
        None => folder_name(dir),
    };
    let manifest = serde_json::json!({
        "name": name,
        "version": "0.1.0",
        "deploy": { "script": "deploy.sh", "timeout_seconds": 60 },
    });
    let script = "#!/bin/sh\n\
        # Runs on the device, in the folder of the new release. What it prints comes back with the outcome;\n\
        # a non-zero exit keeps the previous release.\n\
        set -eu\n\n\
        echo \"deployed on $(uname -n)\"\n";
    let ignored = "# What stays out of the bundle, in gitignore's form.\n*.tar.gz\n*.tar.zst\n";
    for (file, text, mode) in [
        ("manifest.json", format!("{manifest:#}\n"), 0o644),
        ("deploy.sh", script.to_owned(), 0o755),
        (IGNORE_FILE, ignored.to_owned(), 0o644),
    ] {
        let path = dir.join(file);
        let created = files::create_new(&path, mode)
            .and_then(|mut created| created.write_all(text.as_bytes()));
        match created {
            Ok(()) => print_note(&format!("Wrote {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                print_note(&format!("Kept {}, which was there", path.display()));
            }
            Err(error) => return Err(Failure::file("write", &path, &error)),
        }
    }
    print_note(&format!("Next: `kernexctl bundle push {}`", dir.display()));
    Ok(())
}

/// A valid bundle name made of the folder's name.
fn folder_name(dir: &Path) -> String {
    let full = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let name: String = full
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
                c
            } else {
                '-'
            }
        })
        .take(100)
        .collect();
    let name = name.trim_start_matches(['.', '_', '-']).to_owned();
    if check_name("bundle name", &name).is_ok() {
        name
    } else {
        "app".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack;

    #[tokio::test]
    async fn what_init_writes_can_be_packed_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("My app");
        run(&dir, None).unwrap();
        let args = crate::args::pack::PackArgs::default();
        let packed = pack::pack(&dir, &std::env::temp_dir(), None, args)
            .await
            .unwrap();
        assert_eq!(packed.notes, []);
        assert_eq!(packed.reference(), "My-app:0.1.0");
        fs::write(dir.join("deploy.sh"), "mine").unwrap();
        run(&dir, Some("other".into())).unwrap();
        assert_eq!(fs::read_to_string(dir.join("deploy.sh")).unwrap(), "mine");
        assert!(run(&dir, Some("../x".into())).is_err());
    }
}
