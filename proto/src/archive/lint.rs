//! What is checked before a bundle is kept, and not on devices: mistyped names in its manifest,
//! scripts that are not there or cannot run, file names that some disks take for the same. An agent
//! takes such a bundle all the same.

use std::collections::HashMap;

use tokio::io::AsyncRead;
use unicode_normalization::UnicodeNormalization as _;

use super::{
    ArchiveError, Finding, Findings, Inspected, Limits,
    path::{self, EntryPath},
    tree::{Node, Tree},
    walk,
};
use crate::{
    manifest::{self, MANIFEST_FILE, Manifest, UnknownField},
    near,
};

/// Most twins that are told: names that differ in case or normalisation only.
const MAX_TWINS: usize = 5;

/// Files of a bundle among which the one is looked for that was probably meant.
const MAX_CANDIDATES: usize = 10_000;

const NAMES: &str = "Correct the name; a field of your own is kept with `--allow-unknown`.";
const THERE: &str = "Pack the file or correct the name. If an earlier script makes it, begin the command with `exec`.";
const LINE_ENDS: &str = "Take the carriage returns out: `sed -i 's/\\r$//' FILE`, or `*.sh text eol=lf` in .gitattributes.";
const EXECUTE: &str = "Set the bit with `chmod +x` before packing.";
const TWINS: &str = "Rename one of them if it may go to such a disk.";
const KEPT: &str = "It is kept for you; Kernex does nothing with it.";

/// A bundle that may be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// What is in it.
    pub inspected: Inspected,
    /// What is worth a look.
    pub notes: Vec<Finding>,
}

/// Checks the whole archive as [`inspect`](super::inspect) does, and what its manifest and scripts
/// are meant to do. With `allow_unknown` every name is kept.
pub async fn check_upload<R>(
    reader: R,
    limits: &Limits,
    allow_unknown: bool,
) -> Result<Checked, ArchiveError>
where
    R: AsyncRead + Unpin + Send,
{
    let mut seen = walk::walk(reader, limits, &mut None).await?;
    let mut lint = Lint::default();
    if let Some((bytes, parsed)) = &seen.manifest {
        if let Err(error) = parsed {
            lint.mistakes.push(Finding {
                subject: match error.field.as_str() {
                    "" => MANIFEST_FILE.to_owned(),
                    field => field.to_owned(),
                },
                why: error.why.clone(),
                way_out: "Correct that field of manifest.json.",
            });
        }
        lint.names(bytes, allow_unknown);
        if let (Ok(parsed), Some(root)) = (parsed, &seen.root) {
            for (field, script) in parsed.scripts() {
                lint.script(field, script, &seen.tree, root);
            }
        }
    }
    if let Some(root) = &seen.root {
        lint.twins(&seen.tree, root);
    }
    let Lint { mistakes, notes } = lint;
    if !seen.refused.is_empty() {
        seen.refused.append(mistakes);
        return Err(ArchiveError::Unsafe(seen.refused));
    }
    let is_plain = mistakes.total() <= 1;
    let inspected = match seen.accept() {
        Err(error @ ArchiveError::ManifestInvalid(_)) if is_plain => return Err(error),
        Err(ArchiveError::ManifestInvalid(_)) => return Err(ArchiveError::Mistaken(mistakes)),
        accepted => accepted?.inspected,
    };
    if !mistakes.is_empty() {
        return Err(ArchiveError::Mistaken(mistakes));
    }
    Ok(Checked { inspected, notes })
}

/// The same for the manifest alone, where there is no archive yet.
pub fn check_manifest(bytes: &[u8], allow_unknown: bool) -> Result<Manifest, ArchiveError> {
    let mut lint = Lint::default();
    lint.names(bytes, allow_unknown);
    match Manifest::parse(bytes) {
        Ok(manifest) => Ok(manifest),
        Err(error) if lint.mistakes.is_empty() => Err(error.into()),
        Err(error) => {
            let mut all = Findings::from(Finding {
                subject: error.field,
                why: error.why,
                way_out: "Correct that field of manifest.json.",
            });
            all.append(lint.mistakes);
            Err(ArchiveError::Mistaken(all))
        }
    }
}

#[derive(Default)]
struct Lint {
    /// What the bundle is refused for.
    mistakes: Findings,
    /// What is worth a look.
    notes: Vec<Finding>,
}

impl Lint {
    /// Finds names in the manifest that are not known.
    fn names(&mut self, bytes: &[u8], allow_unknown: bool) {
        let Ok(value) = manifest::read_json(bytes) else {
            return;
        };
        for field in manifest::unknown_fields(&value) {
            let is_mistake = field.is_mistake && !allow_unknown;
            let finding = unknown(field, is_mistake);
            match is_mistake {
                true => self.mistakes.push(finding),
                false => self.notes.push(finding),
            }
        }
    }

    /// Finds out whether a script is there and can run.
    fn script(&mut self, field: &str, script: &str, tree: &Tree, root: &EntryPath) {
        if script.contains('\r') {
            self.mistakes.push(Finding {
                subject: field.to_owned(),
                why: "has Windows line ends, which the shell takes for a part of each word"
                    .to_owned(),
                way_out: LINE_ENDS,
            });
        }
        let Some(named) = Named::find(script) else {
            return;
        };
        let subject = || field.to_owned();
        let file = named.file;
        let node = path::entry_path(file.as_bytes())
            .ok()
            .and_then(|path| tree.get(&root.join(path.as_bytes())));
        match node {
            Some(Node::File { mode, start, .. }) => {
                if start.has_windows_end {
                    self.mistakes.push(Finding {
                        subject: subject(),
                        why: format!(
                            "runs `{file}`, which has Windows line ends (CRLF): they become a part of each word, and of the \
                             interpreter's name"
                        ),
                        way_out: LINE_ENDS,
                    });
                }
                let is_executable = mode & 0o111 != 0;
                let why = match named.how {
                    How::Alone if start.names_interpreter && !is_executable => {
                        "is not executable; the interpreter of its `#!` line runs it all the same, but older agents \
                         run it with /bin/sh"
                    }
                    How::First if !is_executable => {
                        "is not executable, and the shell will not run it with arguments"
                    }
                    _ => return,
                };
                self.notes.push(Finding {
                    subject: subject(),
                    why: format!("runs `{file}`, which {why}"),
                    way_out: EXECUTE,
                });
            }
            // Where a link leads is known on the device only.
            Some(Node::Symlink { .. }) => {}
            Some(Node::Folder { .. }) | None => {
                let is_folder = node.is_some();
                let why = match closest_file(file, tree, root) {
                    _ if is_folder => format!("names `{file}`, which is a folder"),
                    Some(meant) => format!(
                        "names `{file}`, which is not in the archive; did you mean `{meant}`?"
                    ),
                    None => format!("names `{file}`, which is not in the archive"),
                };
                let finding = Finding {
                    subject: subject(),
                    why,
                    way_out: THERE,
                };
                match named.how {
                    // Nothing but this file can be meant.
                    How::Alone => self.mistakes.push(finding),
                    // An earlier script may make it.
                    How::First => self.notes.push(finding),
                    How::Handed => {}
                }
            }
        }
    }

    /// Finds names in one folder that differ in case or normalisation only.
    fn twins(&mut self, tree: &Tree, root: &EntryPath) {
        let mut known: HashMap<(Vec<u8>, String), &EntryPath> = HashMap::new();
        let mut told = 0;
        for (path, _) in tree.iter() {
            let (Some(_), Some(parent)) = (path.below(root), path.parent()) else {
                continue;
            };
            let Ok(name) = std::str::from_utf8(path.name()) else {
                continue;
            };
            let folded: String = name.nfc().flat_map(char::to_lowercase).nfc().collect();
            let key = (parent.as_bytes().to_vec(), folded);
            let Some(twin) = known.insert(key, path) else {
                continue;
            };
            told += 1;
            if told > MAX_TWINS {
                return;
            }
            let twin = Finding::entry(twin.as_bytes(), "", "").subject;
            self.notes.push(Finding::entry(
                path.as_bytes(),
                format!(
                    "and `{twin}` differ in case or Unicode form only; some disks take them for one"
                ),
                TWINS,
            ));
        }
    }
}

fn unknown(field: UnknownField, is_mistake: bool) -> Finding {
    let why = match field.meant {
        Some(meant) => format!("is no field that Kernex knows; did you mean `{meant}`?"),
        None => "is no field that Kernex knows".to_owned(),
    };
    Finding {
        subject: Finding::entry(field.path.as_bytes(), "", "").subject,
        why,
        way_out: if is_mistake { NAMES } else { KEPT },
    }
}

/// A file that a script names.
struct Named<'a> {
    file: &'a str,
    how: How,
}

/// How a script names its file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// `./install.sh`: the name is the whole script.
    Alone,
    /// `./install.sh now`: the name is the command, with arguments.
    First,
    /// `sh install.sh`: the name is given to a shell.
    Handed,
}

impl<'a> Named<'a> {
    fn find(script: &'a str) -> Option<Self> {
        let mut words = script.split_whitespace();
        let first = words.next()?;
        let second = words.next();
        let (file, how) = match second {
            None => (first, How::Alone),
            Some(second) if is_shell(first) => (second, How::Handed),
            Some(_) if first.contains('/') => (first, How::First),
            Some(_) => return None,
        };
        is_path_inside(file).then_some(Self { file, how })
    }
}

fn is_shell(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or(word);
    matches!(
        name,
        "sh" | "bash" | "dash" | "ash" | "exec" | "." | "source"
    )
}

/// Whether a word can only be a file of the bundle: a relative path, or a name that ends as scripts
/// do. Words that the shell would change are left alone.
fn is_path_inside(word: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "._-+/@%:,".contains(c);
    let ends_as_scripts = [".sh", ".bash", ".py", ".pl", ".rb", ".js", ".lua"]
        .iter()
        .any(|ending| word.len() > ending.len() && word.ends_with(ending));
    word.chars().all(plain)
        && !word.starts_with('/')
        && !word.split('/').any(|part| part == "..")
        && (word.contains('/') || ends_as_scripts)
}

/// The file that was probably meant: one of nearly the same name, in any folder.
fn closest_file(file: &str, tree: &Tree, root: &EntryPath) -> Option<String> {
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let files: Vec<String> = tree
        .iter()
        .filter(|(_, node)| matches!(node, Node::File { .. }))
        .filter_map(|(path, _)| String::from_utf8(path.below(root)?.as_bytes().to_vec()).ok())
        .filter(|path| path.chars().all(|c| !c.is_control()))
        .take(MAX_CANDIDATES)
        .collect();
    let wanted = name(file);
    let same = files.iter().find(|path| name(path) == wanted);
    let close = || {
        let plain = file.trim_start_matches("./");
        let meant = near::closest(plain, files.iter().map(String::as_str))?;
        Some(format!("./{meant}"))
    };
    same.map(|path| format!("./{path}")).or_else(close)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_must_be_a_file_of_the_bundle_is_looked_for() {
        for (script, file) in [
            ("./install.sh", Some("./install.sh")),
            ("  bin/run\n", Some("bin/run")),
            ("install.sh", Some("install.sh")),
            ("./run.sh --fast", Some("./run.sh")),
            ("sh run.sh x", Some("run.sh")),
            ("exec ./run.sh", Some("./run.sh")),
            ("true", None),
            ("make", None),
            ("systemctl restart app", None),
            ("/usr/bin/env", None),
            ("./$NAME.sh", None),
            ("../x.sh", None),
            ("echo hi > out/file", None),
            ("./a.sh;./b.sh", None),
        ] {
            assert_eq!(
                Named::find(script).map(|named| named.file),
                file,
                "{script}"
            );
        }
    }
}
