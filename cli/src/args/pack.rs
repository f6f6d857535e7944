//! How a folder becomes a bundle.

use clap::Args;

/// Options that `pack`, `push` and `deploy` share for a folder or an archive.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct PackArgs {
    /// Compress a folder with Zstandard: several times faster, and smaller
    #[arg(long)]
    pub(crate) zstd: bool,
    /// Accept fields of manifest.json that look like mistyped ones
    #[arg(long)]
    pub(crate) allow_unknown: bool,
}
