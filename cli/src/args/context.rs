//! `context`: which control plane to talk to.

use std::path::PathBuf;

use clap::{ArgGroup, Subcommand};

use super::{Consent, OutputArg};
use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// Store a server and a token under a name
    #[command(group = ArgGroup::new("secret").required(true).args(["token_file", "token"]))]
    Add {
        /// Name of the context
        name: String,
        /// Take the place of a context of this name for another server
        #[arg(long)]
        replace: bool,
        /// Server URL, e.g. https://kernex.example:7443
        #[arg(long, value_name = "URL")]
        server: String,
        /// The server's `ca.pem`; its content is stored. `system` for the authorities that this
        /// machine trusts, where the server was given a certificate of one of them
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// File with the operator token; its content is stored
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// The operator token itself (a file keeps it out of the shell's history)
        #[arg(long, value_name = "TOKEN")]
        token: Option<String>,
    },
    /// Make a context the current one
    Use {
        /// Name of the context
        #[arg(add = complete::contexts())]
        name: String,
    },
    /// Write a context as a file for clients in other languages: server, pin of its CA, token
    Export {
        /// Name of the context (default: the current one)
        name: Option<String>,
        /// Where to write it, readable for you alone (default: standard output)
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// List contexts
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        output: OutputArg,
    },
    /// Print the name of the context that is used
    Current,
    /// Give a context another name
    Rename {
        /// Its name
        #[arg(add = complete::contexts())]
        name: String,
        /// Its new name
        to: String,
    },
    /// Forget a context and its token
    #[command(visible_alias = "rm")]
    Delete {
        /// Name of the context
        #[arg(add = complete::contexts())]
        name: String,
        #[command(flatten)]
        consent: Consent,
    },
}
