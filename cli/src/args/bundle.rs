//! `bundle`: make, push and fetch bundles.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;

use super::{
    Consent, OutputArg, listing::ListArgs, output::FileArg, pack::PackArgs, values::parse_age,
};
use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Write a small example to start from
    Init {
        /// Folder to write into
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Name of the bundle (default: the folder's name)
        #[arg(long)]
        name: Option<String>,
    },
    /// Make an archive of a folder; the same files always give the same bytes
    Pack {
        /// Folder with a manifest.json
        dir: PathBuf,
        #[command(flatten)]
        file: FileArg,
        #[command(flatten)]
        args: PackArgs,
    },
    /// Upload an archive, or a folder after packing it
    Push {
        /// Archive or folder
        path: PathBuf,
        /// Name on the server, instead of the manifest's
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        args: PackArgs,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Download an archive; `-o -` writes it to the standard output
    Pull {
        /// name:version, a digest or its first 12 digits, or a name for its newest version
        #[arg(add = complete::bundles())]
        bundle: String,
        #[command(flatten)]
        file: FileArg,
        /// Replace the file when it is there already, with something else in it
        #[arg(long)]
        force: bool,
    },
    /// List bundles, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only bundles of this name
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        #[command(flatten)]
        list: ListArgs,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one bundle
    #[command(visible_aliases = ["describe", "show"])]
    Get {
        /// name:version, a digest or its first 12 digits, or a name for its newest version
        #[arg(add = complete::bundles())]
        bundle: String,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Delete a bundle, or with --gc every bundle, that no device and no deployment needs
    #[command(visible_alias = "rm")]
    Delete {
        /// name:version, or a digest or its first 12 digits
        #[arg(required_unless_present = "gc", conflicts_with = "gc", add = complete::bundles())]
        bundle: Option<String>,
        /// Every bundle that nothing needs
        #[arg(long)]
        gc: bool,
        /// With --gc, leave alone what was pushed less than this ago
        #[arg(long, default_value = "1d", value_parser = parse_age, value_name = "DURATION", requires = "gc")]
        older_than: Duration,
        #[command(flatten)]
        consent: Consent,
    },
}
