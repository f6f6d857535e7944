//! Kernex against bare tonic, measured in the same run: `cargo bench -p kernex-integration-tests`.
//!
//! A real `kernex-server` and a bare tonic server ([`bare`]) do the same work for the same load
//! generator, in turn, on a core of their own; figures are medians with their spread and the ratio
//! of the two. Nothing here is asserted but that the work was done right.
//! `-- sessions --agents 10000` measures one row, `-- --quick` everything in small, for
//! correctness.
//!
//! `-- --against FOLDER` holds the programs of this build against those of another one instead, and
//! says which rows are worse.

mod agent;
mod bare;
mod commits;
mod fleet;
mod growth;
mod machine;
mod narrow;
mod nginx;
mod report;
mod small_files;
mod subject;
mod transfers;

use std::{fs, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use kernex_integration_tests::{Database, binaries, fleet::room, samples::ROUNDS_TO_JUDGE};
use serde_json::json;

use crate::{machine::Cores, report::Report};

/// Measure Kernex against bare tonic.
#[derive(Debug, Parser)]
struct Args {
    /// What to measure; everything when nothing is named.
    rows: Vec<Row>,
    /// Sessions in the rows with a fleet; may be repeated [default: 1000 and 10000].
    #[arg(long, value_delimiter = ',')]
    agents: Vec<usize>,
    /// Everything in small and once: whether it works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// Measure against the kernex-server of another build in this folder, instead of bare tonic.
    #[arg(long, value_name = "FOLDER")]
    against: Option<PathBuf>,
    /// Rounds of both sides in turn [default: 3, and 9 against another build].
    #[arg(long)]
    rounds: Option<usize>,
    /// Rounds of transfers, which vary more [default: 9].
    #[arg(long)]
    transfer_rounds: Option<usize>,
    /// Keep the rows in PostgreSQL.
    #[arg(long)]
    postgres: bool,
    /// Write everything to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Be bare tonic, with files in this folder.
    #[arg(long, hide = true, requires = "bare_port")]
    bare: Option<PathBuf>,
    #[arg(long, hide = true)]
    bare_port: Option<u16>,
    /// Cargo says this to every benchmark.
    #[arg(long = "bench", hide = true)]
    _bench: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Row {
    /// Memory and processor use of idle sessions.
    Sessions,
    /// Heartbeats in closed and open loop.
    Heartbeats,
    /// One command to one of many devices.
    Push,
    /// One deployment to all devices.
    FanOut,
    /// All devices coming back at once.
    Storm,
    /// Bundles to the server.
    Upload,
    /// Bundles to devices.
    Download,
    /// Operators' calls on a small and a large database.
    Growth,
    /// What the agent costs its device.
    Agent,
    /// A halt of a script, and one on a narrow link that a download has filled.
    Narrow,
    /// A bundle of 100,000 small files to a device.
    SmallFiles,
}

impl Row {
    fn needs_fleet(self) -> bool {
        matches!(
            self,
            Self::Sessions | Self::Heartbeats | Self::Push | Self::FanOut | Self::Storm
        )
    }
}

/// One run.
struct Bench {
    quick: bool,
    rounds: usize,
    transfer_rounds: usize,
    against: Option<PathBuf>,
    database: Database,
    cores: Cores,
    report: Report,
}

impl Bench {
    /// How long to measure.
    fn time(&self, whole: Duration, quick: Duration) -> Duration {
        if self.quick { quick } else { whole }
    }

    /// How much to do.
    fn count(&self, whole: usize, quick: usize) -> usize {
        if self.quick { quick } else { whole }
    }
}

#[expect(clippy::print_stdout, reason = "the table is what a benchmark is for")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
    };
    if let (Some(folder), Some(port)) = (&args.bare, args.bare_port) {
        room();
        return runtime()?.block_on(bare::serve(folder, port));
    }
    let cores = Cores::pick();
    // Debug programs only show whether the benchmark works, and are built already.
    if !cfg!(debug_assertions) {
        binaries::take_shipped();
    }
    // Cargo builds what is missing on all cores, before this process keeps to one.
    let server = binaries::path("kernex-server");
    eprintln!("measuring {}", server.display());
    if let Some(folder) = &args.against {
        let other = folder.join("kernex-server");
        anyhow::ensure!(other.is_file(), "{} is not there", other.display());
        eprintln!("against {}", other.display());
    }
    let room = room();
    let machine = machine::describe(cores, room);
    eprintln!("{machine:#}");
    cores.pin_load();
    let small = if args.quick { 1 } else { 3 };
    let rounds = match args.against {
        Some(_) if !args.quick => ROUNDS_TO_JUDGE,
        _ => small,
    };
    let mut bench = Bench {
        quick: args.quick,
        rounds: args.rounds.unwrap_or(rounds),
        transfer_rounds: args.transfer_rounds.unwrap_or(small * small),
        database: if args.postgres {
            Database::Postgres
        } else {
            Database::Sqlite
        },
        cores,
        report: Report::new(args.against.is_some()),
        against: args.against.clone(),
    };
    runtime()?.block_on(measure(&mut bench, &args, room))?;
    println!("\n{}", bench.report.table());
    if let Some(path) = &args.json {
        let whole = json!({
            "machine": machine,
            "quick": args.quick,
            "database": if args.postgres { "postgresql" } else { "sqlite" },
            "programs": server.parent(),
            "against": args.against,
            "figures": bench.report.json(),
        });
        fs::write(path, format!("{whole:#}\n"))?;
    }
    Ok(())
}

async fn measure(bench: &mut Bench, args: &Args, room: usize) -> anyhow::Result<()> {
    if args.postgres && std::env::var_os("KERNEX_TEST_POSTGRES_URL").is_none() {
        bench.report.note("The PostgreSQL started here does not sync; name one that does with KERNEX_TEST_POSTGRES_URL.");
    }
    if !bench.cores.apart() {
        bench.report.note("Server and load shared one core.");
    }
    let mut rows = args.rows.clone();
    if rows.is_empty() {
        rows = Row::value_variants().to_vec();
    }
    let fleet: Vec<Row> = rows
        .iter()
        .copied()
        .filter(|row| row.needs_fleet())
        .collect();
    if !fleet.is_empty() {
        let mut agents = args.agents.clone();
        if agents.is_empty() {
            agents = if args.quick {
                vec![100]
            } else {
                vec![1_000, 10_000]
            };
        }
        for agents in agents {
            let possible = agents.min(room);
            if possible < agents {
                bench.report.note(format!(
                    "{agents} sessions were asked for; {possible} is what the descriptors of one process allow here (ulimit -Hn)."
                ));
            }
            Box::pin(fleet::run(bench, &fleet, possible)).await?;
        }
    }
    if rows.contains(&Row::Upload) || rows.contains(&Row::Download) {
        Box::pin(transfers::run(bench, &rows)).await?;
    }
    if rows.contains(&Row::Growth) {
        Box::pin(growth::run(bench)).await?;
    }
    if rows.contains(&Row::Agent) && bench.against.is_some() {
        bench
            .report
            .note("What the agent costs is not held against another build.");
    } else if rows.contains(&Row::Agent) {
        Box::pin(agent::run(bench)).await?;
    }
    if rows.contains(&Row::Narrow) && bench.against.is_none() {
        Box::pin(narrow::run(bench)).await?;
    }
    if rows.contains(&Row::SmallFiles) && bench.against.is_none() {
        Box::pin(small_files::run(bench)).await?;
    }
    Ok(())
}
