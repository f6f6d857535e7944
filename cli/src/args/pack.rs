//! How a folder becomes a bundle.

use clap::Args;

/// What `pack`, `push` and `deploy` of a folder or an archive know.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct PackArgs {
    /// Compress a folder with Zstandard: several times faster, and smaller
    #[arg(long)]
    pub(crate) zstd: bool,
    /// Keep fields of manifest.json that look like known ones mistyped
    #[arg(long)]
    pub(crate) allow_unknown: bool,
}
