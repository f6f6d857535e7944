//! Finds the programs under test and brings them up to date once per run.
//!
//! `cargo test` builds test programs, not the binaries themselves, so the first test asks cargo for
//! them. When they are fresh that takes a moment. `KERNEX_TEST_BINARIES=<folder>` uses that folder
//! as it is (a release build, say).

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

// This is set before the first program is looked for.
static SHIPPED: OnceLock<()> = OnceLock::new();

/// Takes programs as they ship, without the crash points that builds of the whole workspace have.
/// Only before the first [`path`].
pub fn take_shipped() {
    let _ = SHIPPED.set(());
}

/// Path of `kernex-server`, `kernex-agent` or `kernexctl`.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn path(program: &str) -> PathBuf {
    static FOLDERS: OnceLock<Folders> = OnceLock::new();
    let folders = FOLDERS.get_or_init(prepare);
    let folder = match program {
        "kernex-agent" => &folders.agent,
        _ => &folders.others,
    };
    let path = folder.join(program);
    assert!(path.exists(), "{} is missing", path.display());
    path
}

/// Folder of build output that survives between runs (`target/`).
///
/// # Panics
/// When the test program is not where cargo puts it.
#[must_use]
pub fn target_folder() -> PathBuf {
    let profile = profile_folder();
    profile
        .parent()
        .expect("a profile folder has a parent")
        .to_owned()
}

/// The workspace's own folder.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn profile_folder() -> PathBuf {
    let program = env::current_exe().expect("the test program knows its path");
    // target/<profile>/deps/<test program>, or target/<profile>/kernex-chaos
    let folder = program.parent().expect("the program lives in a folder");
    if folder.ends_with("deps") {
        let profile = folder.parent();
        profile
            .expect("the test program lives in target/<profile>/deps")
            .to_owned()
    } else {
        folder.to_owned()
    }
}

/// Where the programs under test are. Faults meet debug builds, with their assertions, however the
/// harness is built.
fn tested_folder() -> PathBuf {
    let program = env::current_exe().expect("the test program knows its path");
    if program
        .file_stem()
        .is_some_and(|name| name == "kernex-chaos")
    {
        target_folder().join("debug")
    } else {
        profile_folder()
    }
}

/// Where the programs are. An agent as published has a profile of its own.
struct Folders {
    agent: PathBuf,
    others: PathBuf,
}

impl Folders {
    fn one(folder: PathBuf) -> Self {
        Self {
            agent: folder.clone(),
            others: folder,
        }
    }
}

fn prepare() -> Folders {
    if let Some(folder) = env::var_os("KERNEX_TEST_BINARIES") {
        return Folders::one(folder.into());
    }
    let folder = tested_folder();
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    eprintln!("bringing the programs in {} up to date", folder.display());
    if SHIPPED.get().is_none() {
        build(profile, &["--workspace"]);
        return Folders::one(folder);
    }
    build(profile, &["-p", "kernex-server", "-p", "kernexctl"]);
    if profile != "dist" {
        build(profile, &["-p", "kernex-agent"]);
        return Folders::one(folder);
    }
    build("dist-agent", &["-p", "kernex-agent"]);
    Folders {
        agent: folder.with_file_name("dist-agent"),
        others: folder,
    }
}

fn build(profile: &str, packages: &[&str]) {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(workspace())
        .args(["build", "--quiet", "--bins", "--profile", profile])
        .args(packages)
        .status()
        .expect("cargo can be started");
    assert!(
        status.success(),
        "cargo could not build the programs under test"
    );
}
