//! Witness files: each script records its own start and end, in a file the agent does not know.
//!
//! Every step of a bundle made here appends `start deployment attempt step run digest` to its
//! device's witness file when it begins, and `end` with the same words when it is through, each by
//! one synced `O_APPEND` write. While a device goes back the step is `rollback.` and the step the
//! script was made for: both scripts of the release before run in that one step. A script finds the
//! file by the path in `witness-path` of the agent's state folder, so that a copied state folder
//! can have a witness of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use rand::RngExt;
use serde_json::{Map, json};
use sha2::{Digest as _, Sha256};

use crate::BundleBuilder;

/// File of a state folder that names the witness.
const POINTER: &str = "witness-path";

/// Arguments: seconds to take, the exit code, and the step it was made for. `KERNEX_STATE_DIR` is
/// `<state folder>/bundles/<name>/state`.
const SCRIPT: &str = r#"#!/bin/sh
read -r file < "$KERNEX_STATE_DIR/../../../witness-path" || exit 97
step=$KERNEX_STEP
[ "$step" != rollback ] || step="rollback.$3"
line="$KERNEX_DEPLOYMENT_ID $KERNEX_ATTEMPT $step ${KERNEX_RUN:-1} $KERNEX_BUNDLE_DIGEST"
append() {
  echo "$1 $line" | dd of="$file" oflag=append conv=notrunc,fsync status=none
}
append start || exit 98
[ "$1" = 0 ] || sleep "$1"
case "$KERNEX_STEP:$2" in
  # Asks to be asked again, once.
  pre_hook:75) [ "${KERNEX_RUN:-1}" != 1 ] || exit 75 ;;
  script:75 | rollback:75) append end || exit 99; kill "$KERNEX_AGENT_PID"; exit 75 ;;
  *:0 | *:75) ;;
  *) exit "$2" ;;
esac
append end || exit 99
"#;

/// The witness of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    path: PathBuf,
}

impl Witness {
    /// A witness in the file `path` for the scripts of the state folder `state`.
    pub fn place(path: PathBuf, state: &Path) -> io::Result<Self> {
        let mut pointer = fs::File::create(state.join(POINTER))?;
        writeln!(pointer, "{}", path.display())?;
        pointer.sync_all()?;
        fs::File::open(state)?.sync_all()?;
        Ok(Self { path })
    }

    /// Makes scripts of a second state folder write to this witness as well.
    pub fn follow(&self, state: &Path) -> io::Result<()> {
        Self::place(self.path.clone(), state).map(drop)
    }

    /// Length of the file; it grows when a step begins or ends.
    #[must_use]
    pub fn size(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |meta| meta.len())
    }

    /// All lines; none before the first step.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// What a bundle contains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BundleContents {
    pub name: String,
    pub version: String,
    /// Steps that run something, as scripts spell them: `pre_hook`, `script`, `post_hook`.
    pub steps: BTreeSet<String>,
    /// Every entry but folders: path within the release, and what is there.
    pub entries: BTreeMap<String, Entry>,
}

/// A file or link of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A file with this SHA-256 and whether it may be executed.
    File {
        /// SHA-256 in hex.
        digest: String,
        /// Some execute bit is set.
        executable: bool,
    },
    /// A symbolic link to this.
    Link(String),
}

impl Entry {
    #[must_use]
    pub fn file(content: &[u8], executable: bool) -> Self {
        Self::File {
            digest: hex::encode(Sha256::digest(content)),
            executable,
        }
    }
}

/// How a step behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepBehaviour {
    /// Milliseconds it takes.
    pub millis: u64,
    /// Its exit code.
    pub exit: u8,
}

impl StepBehaviour {
    /// Exits with 75 at once: a `pre_hook` is deferred, a `script` expects a restart.
    pub const AGAIN: Self = Self {
        millis: 0,
        exit: 75,
    };
    /// Fails at once.
    pub const BAD: Self = Self { millis: 0, exit: 1 };
    /// Succeeds at once.
    pub const QUICK: Self = Self { millis: 0, exit: 0 };

    fn command(self, step: &str) -> String {
        let Self { millis, exit } = self;
        let seconds = match millis {
            0 => "0".to_owned(),
            millis => format!("{}.{:03}", millis / 1000, millis % 1000),
        };
        format!("exec sh ./witness.sh {seconds} {exit} {step}")
    }
}

/// A bundle whose steps write to the witness.
#[derive(Debug, Clone)]
pub struct WitnessedBundle {
    name: String,
    version: String,
    steps: BTreeMap<&'static str, StepBehaviour>,
    files: Vec<(String, Vec<u8>, bool)>,
}

impl WitnessedBundle {
    /// A bundle without steps.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            steps: BTreeMap::new(),
            files: Vec::new(),
        }
    }

    /// Adds a step: `pre_hook`, `script` or `post_hook`.
    #[must_use]
    pub fn step(mut self, step: &'static str, manner: StepBehaviour) -> Self {
        self.steps.insert(step, manner);
        self
    }

    #[must_use]
    pub fn file(mut self, path: &str, content: Vec<u8>, executable: bool) -> Self {
        self.files.push((path.to_owned(), content, executable));
        self
    }

    /// A bundle of moderate size with some steps, of which a few are slow or fail.
    #[must_use]
    pub fn random(name: &str, version: &str, rng: &mut impl RngExt) -> Self {
        let mut bundle = Self::new(name, version).step("script", manner(rng));
        for hook in ["pre_hook", "post_hook"] {
            if rng.random_bool(0.4) {
                bundle = bundle.step(hook, manner(rng));
            }
        }
        for number in 0..rng.random_range(1..6) {
            let mut content = vec![0; rng.random_range(0..60_000)];
            rng.fill_bytes(&mut content);
            let path = format!("data/{}/{number}.bin", number % 2);
            bundle = bundle.file(&path, content, rng.random_bool(0.3));
        }
        // Many small files take another path to the disk. Decided without the generator, so that
        // old seeds still mean the same.
        if version
            .bytes()
            .map(u32::from)
            .sum::<u32>()
            .is_multiple_of(5)
        {
            for number in 0..200 {
                let path = format!("many/{}/{number}", number % 8);
                bundle = bundle.file(&path, number.to_string().into(), false);
            }
        }
        bundle
    }

    /// The archive and its contents.
    pub async fn build(&self) -> (Vec<u8>, BundleContents) {
        let command = |step| self.steps.get(step).map(|manner| manner.command(step));
        let mut manifest = json!({ "name": self.name, "version": self.version });
        if let Some(script) = command("script") {
            manifest["deploy"] = json!({ "script": script, "timeout_seconds": 60 });
        }
        let hooks = [("pre", "pre_hook"), ("post", "post_hook")];
        let hooks: Map<_, _> = hooks
            .into_iter()
            .filter_map(|(key, step)| Some((key.to_owned(), command(step)?.into())))
            .collect();
        if !hooks.is_empty() {
            manifest["hooks"] = hooks.into();
        }
        if self.steps.get("pre_hook") == Some(&StepBehaviour::AGAIN) {
            manifest["hooks"]["retry_seconds"] = 1.into();
        }
        if self.steps.get("script") == Some(&StepBehaviour::AGAIN) {
            manifest["restart"] = "expected".into();
        }
        let mut files = vec![
            (
                "manifest.json".to_owned(),
                manifest.to_string().into(),
                false,
            ),
            ("witness.sh".to_owned(), SCRIPT.into(), true),
        ];
        files.extend(self.files.iter().cloned());
        let mut builder = BundleBuilder::empty();
        let mut entries = BTreeMap::new();
        for (path, content, executable) in files {
            let mode = if executable { 0o755 } else { 0o644 };
            builder = builder.file_with_mode(&path, mode, &content);
            entries.insert(path, Entry::file(&content, executable));
        }
        builder = builder.symlink("link", "witness.sh");
        entries.insert("link".to_owned(), Entry::Link("witness.sh".to_owned()));
        let facts = BundleContents {
            name: self.name.clone(),
            version: self.version.clone(),
            steps: self.steps.keys().map(|&step| step.to_owned()).collect(),
            entries,
        };
        (builder.gzip().await, facts)
    }
}

fn manner(rng: &mut impl RngExt) -> StepBehaviour {
    let millis = match rng.random_range(0..10) {
        0..3 => 0,
        3..8 => rng.random_range(10..300),
        _ => rng.random_range(300..1500),
    };
    let exit = u8::from(rng.random_bool(0.12));
    StepBehaviour { millis, exit }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_step_leaves_a_line_at_its_start_and_at_a_good_end() {
        let folder = tempfile::tempdir().unwrap();
        let witness = Witness::place(folder.path().join("witness"), folder.path()).unwrap();
        let bundle_dir = folder.path().join("bundles/app/state");
        fs::create_dir_all(&bundle_dir).unwrap();
        fs::write(folder.path().join("witness.sh"), SCRIPT).unwrap();
        let runs = [
            ("script", 3, vec!["start"]),
            ("script", 0, vec!["start", "end"]),
            ("rollback", 0, vec!["start", "end"]),
        ];
        let mut expected = Vec::new();
        for (step, exit, words) in runs {
            let manner = StepBehaviour { millis: 5, exit };
            let status = Command::new("sh")
                .args(["-c", &manner.command("post_hook")])
                .current_dir(folder.path())
                .env("KERNEX_STATE_DIR", &bundle_dir)
                .envs([
                    ("KERNEX_DEPLOYMENT_ID", "d"),
                    ("KERNEX_ATTEMPT", "1"),
                    ("KERNEX_STEP", step),
                    ("KERNEX_BUNDLE_DIGEST", "abc"),
                ])
                .status()
                .unwrap();
            assert_eq!(status.code(), Some(i32::from(exit)));
            let step = step.replace("rollback", "rollback.post_hook");
            expected.extend(words.iter().map(|word| format!("{word} d 1 {step} 1 abc")));
            assert_eq!(witness.lines(), expected);
        }
    }

    #[tokio::test]
    async fn the_contents_of_a_bundle_are_read_back() {
        let bundle = WitnessedBundle::new("app", "1")
            .step("post_hook", StepBehaviour::QUICK)
            .file("a/b", b"x".to_vec(), true);
        let (_, facts) = bundle.build().await;
        assert!(facts.steps.contains("post_hook") && facts.steps.len() == 1);
        assert_eq!(facts.entries["a/b"], Entry::file(b"x", true));
        assert_eq!(facts.entries.len(), 4);
    }
}
