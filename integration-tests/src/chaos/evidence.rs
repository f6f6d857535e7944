//! Reads what is left after a scenario: devices, journals, the process table and the server's log.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    checker::{Current, JournalRow},
    witness::Entry,
};
use crate::agent;

/// The current release of every bundle name in a state folder.
#[must_use]
pub fn currents(state: &Path) -> Vec<Current> {
    let mut found = Vec::new();
    for bundle_dir in children(&state.join("bundles")) {
        let link = bundle_dir.join("current");
        let Ok(target) = fs::read_link(&link) else {
            continue;
        };
        let folder = target
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let about = fs::read(bundle_dir.join("about").join(format!("{folder}.json")));
        let about: Value = about
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let mut entries = BTreeMap::new();
        let listed = list(&link, Path::new(""), &mut entries);
        found.push(Current {
            name: bundle_dir
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            digest: about["digest"].as_str().unwrap_or_default().to_owned(),
            entries: listed.is_ok().then_some(entries),
        });
    }
    found
}

fn list(root: &Path, below: &Path, into: &mut BTreeMap<String, Entry>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(root, &path, into)?;
            continue;
        }
        let found = if kind.is_symlink() {
            Entry::Link(fs::read_link(entry.path())?.to_string_lossy().into_owned())
        } else {
            let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
            Entry::file(&fs::read(entry.path())?, executable)
        };
        into.insert(path.to_string_lossy().into_owned(), found);
    }
    Ok(())
}

/// Reads the journal of a stopped agent, with the agent's own program.
pub fn journal(state: &Path) -> Result<Vec<JournalRow>, String> {
    let output = agent::bare_command("journal")
        .arg("--state-dir")
        .arg(state)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .map(|line| journal_row(line).ok_or_else(|| format!("not a line of a journal: {line}")))
        .collect()
}

fn journal_row(line: &str) -> Option<JournalRow> {
    let row: Value = serde_json::from_str(line).ok()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let outcome = &row["outcome"];
    Some(JournalRow {
        target: row["target"].as_str()?.replace('-', ""),
        number: row["attempt"].as_u64()?.try_into().ok()?,
        acknowledged: row["acknowledged"].as_bool()?,
        outcome: text(&outcome["state"]).map(|state| (state, text(&outcome["reason"]))),
    })
}

/// Temporary files in a state folder.
#[must_use]
pub fn temporary(state: &Path) -> Vec<String> {
    let mut found: Vec<PathBuf> = children(&state.join("tmp"));
    found.extend(children(&state.join("trash")));
    let mut folders = vec![state.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in children(&folder) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.contains(".tmp") {
                found.push(path);
            } else if path.is_dir()
                && !path.is_symlink()
                && !["releases", "tmp", "trash"].contains(&&*name)
            {
                folders.push(path);
            }
        }
    }
    found
        .iter()
        .map(|path| path.display().to_string())
        .collect()
}

/// Descriptors of a running agent that lead into what it unpacked, downloaded or removed.
#[must_use]
pub fn descriptors(pid: u32, state: &Path) -> Vec<String> {
    let bundles = state.join("bundles");
    let (tmp, trash) = (state.join("tmp"), state.join("trash"));
    let open = children(Path::new(&format!("/proc/{pid}/fd")));
    open.iter()
        .filter_map(|fd| fs::read_link(fd).ok())
        .filter(|target| {
            let removed = target.to_string_lossy().ends_with(" (deleted)");
            target.starts_with(&bundles)
                || target.starts_with(&tmp)
                || target.starts_with(&trash)
                || removed && target.starts_with(state)
        })
        .map(|target| target.display().to_string())
        .collect()
}

/// Processes of scripts of this state folder, as `pid command line`.
#[must_use]
pub fn processes(state: &Path) -> Vec<String> {
    let wanted = format!("KERNEX_STATE_DIR={}/", state.display());
    children(Path::new("/proc"))
        .iter()
        .filter(|folder| {
            let environ = fs::read(folder.join("environ")).unwrap_or_default();
            environ
                .split(|byte| *byte == 0)
                .any(|entry| entry.starts_with(wanted.as_bytes()))
        })
        .map(|folder| {
            let line = fs::read(folder.join("cmdline")).unwrap_or_default();
            let pid = folder.file_name().unwrap_or_default().to_string_lossy();
            format!(
                "{pid} {}",
                String::from_utf8_lossy(&line).replace('\0', " ")
            )
        })
        .collect()
}

/// Files of unfinished uploads in a server's data folder.
#[must_use]
pub fn server_leftovers(data: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![data.join("bundles"), data.join("uploads"), data.join("tmp")];
    while let Some(folder) = folders.pop() {
        for path in children(&folder) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                folders.push(path);
            } else if name.contains('#') || name.contains("tmp") || name.contains("upload") {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// Device id and epoch of every session a server's log tells of, in order.
#[must_use]
pub fn sessions(log: &str) -> Vec<(String, u64)> {
    log.lines()
        .filter(|line| line.contains("session opened"))
        .filter_map(|line| {
            let plain = without_colours(line);
            let device = field(&plain, "device=")?.replace('-', "");
            Some((device, field(&plain, "session=")?.parse().ok()?))
        })
        .collect()
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = &line[line.find(name)? + name.len()..];
    let end = rest.find([' ', '}']).unwrap_or(rest.len());
    Some(&rest[..end])
}

fn without_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some(at) = rest.find('\x1b') {
        plain.push_str(&rest[..at]);
        rest = rest[at..].find('m').map_or("", |end| &rest[at + end + 1..]);
    }
    plain + rest
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_read_from_the_log() {
        let log = "12:00 INFO session{device=01-ab session=7}: kernex_server::session: session opened name=\"a\"\n\
                   \x1b[2m12:00\x1b[0m session{\x1b[3mdevice\x1b[0m\x1b[2m=\x1b[0m02-cd session=8}: session opened\n\
                   session{device=03 session=9}: session closed";
        assert_eq!(
            sessions(log),
            [("01ab".to_owned(), 7), ("02cd".to_owned(), 8)]
        );
    }

    #[test]
    fn current_releases_are_listed_and_a_dangling_link_is_seen() {
        let state = tempfile::tempdir().unwrap();
        let bundle_dir = state.path().join("bundles/app");
        let release = bundle_dir.join("releases/1-a");
        fs::create_dir_all(release.join("sub")).unwrap();
        fs::create_dir(bundle_dir.join("about")).unwrap();
        fs::write(release.join("sub/file"), "x").unwrap();
        fs::write(bundle_dir.join("about/1-a.json"), r#"{"digest":"d"}"#).unwrap();
        assert_eq!(currents(state.path()), []);
        std::os::unix::fs::symlink("releases/1-a", bundle_dir.join("current")).unwrap();
        let entries = BTreeMap::from([("sub/file".to_owned(), Entry::file(b"x", false))]);
        let mut expected = Current {
            name: "app".to_owned(),
            digest: "d".to_owned(),
            entries: Some(entries),
        };
        assert_eq!(currents(state.path()), [expected.clone()]);
        fs::remove_dir_all(&release).unwrap();
        expected.entries = None;
        assert_eq!(currents(state.path()), [expected]);
    }

    #[test]
    fn a_line_of_a_journal_is_read() {
        let line = r#"{"target":"0a-1","attempt":2,"acknowledged":true,"state":"failed","outcome":{"state":"failed","reason":"interrupted"}}"#;
        let row = journal_row(line).unwrap();
        assert_eq!(
            row.outcome,
            Some(("failed".to_owned(), Some("interrupted".to_owned())))
        );
        assert_eq!((row.target.as_str(), row.number), ("0a1", 2));
        assert_eq!(journal_row("{}"), None);
    }
}
