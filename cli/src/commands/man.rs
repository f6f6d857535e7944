//! `man`: a manual page for every command, from the same text as `--help`.

use std::path::Path;

use clap::Command;

use crate::{error::Failure, output::print_note};

/// Writes `kernexctl.1`, `kernexctl-device.1`, `kernexctl-device-list.1` and so on.
pub(crate) fn run(dir: &Path, command: Command) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).map_err(|error| Failure::file("create", dir, &error))?;
    clap_mangen::generate_to(command, dir)
        .map_err(|error| Failure::file("write into", dir, &error))?;
    print_note(&format!("The manual pages are in `{}`.", dir.display()));
    Ok(())
}
