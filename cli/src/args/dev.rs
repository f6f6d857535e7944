//! `dev`: a whole fleet on this machine.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// How many devices
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) devices: u16,
    /// Deploy once, print the result and leave; exits 3 when the deployment failed
    #[arg(long)]
    pub(crate) once: bool,
    /// Keep everything in this folder, to go on from there next time (default: a temporary one)
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}
