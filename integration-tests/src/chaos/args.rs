//! What can be typed after `kernex-chaos`.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Injects faults into a real server and real agents, ends the faults, and checks that nothing was
/// lost, run twice or made up.
///
/// The programs under test are debug builds of this workspace, with all of their assertions;
/// KERNEX_TEST_BINARIES names a folder with others. A failure prints the seed and the history, and
/// ends with exit code 1.
#[derive(Debug, Parser)]
#[command(name = "kernex-chaos", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs of `kernex-chaos`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run every scenario with the number of faults that CI takes, on each of its databases.
    Ci {
        /// Decides every random choice [default: drawn and printed].
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Run one scenario.
    Run(Run),
    /// Show the scenarios.
    List,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Its name, as `list` shows it.
    pub scenario: String,
    /// Faults on each database. For `crashes`, how often each point is taken. For `hostile`, the
    /// seconds of an attack: from 20 on it comes in four bursts of a fifth of that, and then lasts
    /// all of it without a break; with 40 it outlasts what slow readers are given [default: as many
    /// as in CI].
    #[arg(long)]
    pub count: Option<usize>,
    /// Decides every random choice [default: drawn and printed].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Only on this database [default: each that the scenario makes sense on].
    #[arg(long)]
    pub database: Option<Kind>,
    /// Devices [default: the scenario's own choice].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub devices: Option<u16>,
    /// For `hostile`: only the attacks whose names contain this.
    #[arg(long)]
    pub only: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// SQLite, the embedded default.
    Sqlite,
    /// PostgreSQL, as installed or as `KERNEX_TEST_POSTGRES_URL` says.
    Postgres,
}

impl From<Kind> for crate::Database {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Sqlite => Self::Sqlite,
            Kind::Postgres => Self::Postgres,
        }
    }
}
