//! The `kernex-rows` program: fills the database of a server with a large fleet, to look at screens
//! and to measure lists.

use std::{io::Write as _, process::ExitCode};

use clap::Parser;
use kernex_integration_tests::rows::Rows;

/// Writes the rows of a fleet that never was. The server may run meanwhile. Not for a database that
/// somebody needs: nothing takes the rows out again.
#[derive(Debug, Parser)]
#[command(name = "kernex-rows")]
struct Args {
    /// Database of the server, e.g. sqlite:///var/lib/kernex-server/kernex.db
    #[arg(long, value_name = "URL")]
    database_url: String,
    /// How many devices
    #[arg(long, default_value_t = 30_000)]
    devices: u32,
    /// What their names begin with
    #[arg(long, default_value = "edge-")]
    prefix: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let rows = Rows {
        devices: args.devices,
        prefix: args.prefix,
    };
    match rows.write(&args.database_url).await {
        Ok(deployment) => {
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{} devices; deployment {deployment}", rows.devices);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "kernex-rows: {error}");
            ExitCode::FAILURE
        }
    }
}
