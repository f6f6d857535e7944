//! Finds out which tests can run here, so that the ones that cannot are shown as ignored:
//! PostgreSQL or promtool may be missing, and disks of a test's own need root.

use std::{env, fs, os::unix::fs::MetadataExt as _, path::Path};

/// Where Debian keeps one folder per version.
const DEBIAN: &str = "/usr/lib/postgresql";

fn main() {
    println!("cargo:rustc-check-cfg=cfg(kernex_postgres)");
    println!("cargo:rustc-check-cfg=cfg(kernex_disks)");
    println!("cargo:rustc-check-cfg=cfg(kernex_promtool)");
    for variable in ["KERNEX_TEST_POSTGRES_URL", "CI", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={DEBIAN}");
    // In CI they always run, so that a missing database is a failure and not a silence.
    let in_ci = env::var("CI").is_ok_and(|value| value == "true" || value == "1");
    if in_ci || env::var_os("KERNEX_TEST_POSTGRES_URL").is_some() || installed() {
        println!("cargo:rustc-cfg=kernex_postgres");
    } else {
        println!(
            "cargo:warning=no PostgreSQL here: its tests are ignored. \
             Install it (Debian: apt install postgresql) or set KERNEX_TEST_POSTGRES_URL"
        );
    }
    if in_ci || is_on_path("promtool") {
        println!("cargo:rustc-cfg=kernex_promtool");
    } else {
        println!(
            "cargo:warning=no promtool here: the tests of the alerts are ignored. \
             Install it (Debian: apt install prometheus)"
        );
    }
    if in_ci || has_disks() {
        println!("cargo:rustc-cfg=kernex_disks");
    } else {
        println!(
            "cargo:warning=no power cuts and full disks here: these tests are ignored. \
             They need root, mkfs.ext4 and loop devices"
        );
    }
}

fn is_on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).exists())
}

/// Whether disks can be made, formatted and mounted; `/proc/self` belongs to whoever runs this.
fn has_disks() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let folders = ["/sbin", "/usr/sbin", "/usr/bin"].map(Path::new);
    root && Path::new("/dev/loop-control").exists()
        && folders
            .iter()
            .any(|folder| folder.join("mkfs.ext4").exists())
}

fn installed() -> bool {
    let on_path = is_on_path("initdb");
    let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    on_path
        || versions
            .into_iter()
            .any(|version| has_initdb(&version.path()))
}

fn has_initdb(version: &Path) -> bool {
    version.join("bin/initdb").exists()
}
