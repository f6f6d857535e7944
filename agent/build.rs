//! Finds out which tests can run here, so that the ones that cannot are shown as ignored: mounting
//! needs root.

use std::{env, process::Command};

fn main() {
    println!("cargo:rustc-check-cfg=cfg(kernex_mounts)");
    println!("cargo:rerun-if-env-changed=CI");
    println!("cargo:rerun-if-changed=build.rs");
    // In CI they always run, so that missing rights are a failure and not a silence.
    let in_ci = env::var("CI").is_ok_and(|value| value == "true" || value == "1");
    let tried = Command::new("unshare").args(["--mount", "true"]).output();
    if in_ci || tried.is_ok_and(|output| output.status.success()) {
        println!("cargo:rustc-cfg=kernex_mounts");
    }
}
