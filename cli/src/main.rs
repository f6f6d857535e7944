//! `kernexctl`, the operator's program: arguments in, one command, an exit code out.
//!
//! Data goes to stdout, messages go to stderr, and every failure names the next step (see `error`).

mod args;
mod blocking;
mod client;
mod commands;
mod complete;
mod context;
#[cfg(feature = "dev")]
mod dev;
mod error;
mod files;
mod interrupt;
mod output;
mod pack;
mod text;
mod yaml;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use clap_complete::CompleteEnv;
use kernex_proto::telemetry::{self, LogFormat};
use tracing::Instrument as _;

use crate::{
    args::{Cli, Command},
    commands::Session,
    error::Failure,
};

fn main() -> ExitCode {
    // One crypto provider for all TLS in this process; a second call returns an error, which says
    // only that it is set.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // A shell that asks for suggestions gets them, and nothing else happens.
    CompleteEnv::with_factory(command)
        .var(complete::VARIABLE)
        .complete();
    let cli = Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::print_note(&format!(
                "error: cannot start: {error}\n  next: Check the limits of this user (`ulimit -a`)."
            ));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(traced(cli));
    // What still blocks a thread is given up.
    runtime.shutdown_timeout(interrupt::GRACE);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::print_note(&format!("error: {failure}"));
            ExitCode::from(failure.exit.code())
        }
    }
}

/// The command line, with examples below each help.
fn command() -> clap::Command {
    args::with_examples(Cli::command())
}

/// Runs the command within the span that a deployment's trace starts with.
async fn traced(cli: Cli) -> Result<(), Failure> {
    let telemetry = telemetry::init("kernexctl", "warn", LogFormat::Text);
    if let Err(error) = &telemetry {
        output::print_note(&format!("warning: no traces: {error}"));
    }
    let span = tracing::info_span!(
        "kernexctl",
        otel.name = cli.command.title(),
        otel.status_code = tracing::field::Empty,
        otel.status_description = tracing::field::Empty,
        process.exit.code = tracing::field::Empty,
    );
    // A fleet stops its parts one after the other, by itself.
    let stops_itself = matches!(cli.command, Command::Dev { .. });
    let verb = Box::pin(run(cli)).instrument(span.clone());
    let result = if stops_itself {
        verb.await
    } else {
        Box::pin(interrupt::unless_interrupted(verb)).await
    };
    let code = result
        .as_ref()
        .map_or_else(|failure| failure.exit.code(), |()| 0);
    span.record("process.exit.code", code);
    if let Err(failure) = &result {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", failure.message.as_str());
    }
    drop(span);
    if let Ok(guard) = telemetry {
        guard.shutdown().await;
    }
    result
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let session = Session::new(cli.context, cli.proxy);
    match cli.command {
        Command::Status { limit, output } => commands::status::run(&session, limit, output).await,
        Command::Context(command) => commands::context::run(command).await,
        Command::Enrollment(command) => commands::enrollment::run(&session, command).await,
        Command::Device(command) => commands::device::run(&session, command).await,
        Command::Bundle(command) => commands::bundle::run(&session, command).await,
        Command::Deploy(args) => commands::deploy::run(&session, *args).await,
        Command::Config(command) => commands::config::run(&session, command).await,
        Command::Deployment(command) => commands::deployment::run(&session, command).await,
        Command::Output(args) => commands::script_output::run(&session, args).await,
        Command::Token(command) => commands::token::run(&session, command).await,
        Command::Audit(command) => commands::audit::run(&session, command).await,
        Command::Event(command) => commands::event::run(&session, command).await,
        Command::Get(command) => Box::pin(commands::verbs::get(&session, command)).await,
        Command::Delete(command) => Box::pin(commands::verbs::delete(&session, command)).await,
        Command::Wait(command) => Box::pin(commands::wait::run(&session, command)).await,
        Command::Explain { word } => commands::explain::run(word.as_deref()),
        Command::Doctor { output } => Box::pin(commands::doctor::run(&session, output)).await,
        Command::SupportBundle { file } => Box::pin(commands::support::run(&session, &file)).await,
        Command::Whoami { output } => commands::version::whoami(&session, output).await,
        Command::Version { client, output } => {
            commands::version::version(&session, client, output).await
        }
        Command::Man { dir } => commands::man::run(&dir, command()),
        #[cfg(feature = "dev")]
        Command::Dev(args) => dev::run(args).await,
        #[cfg(not(feature = "dev"))]
        Command::Dev { .. } => Err(Failure::usage(
            "this kernexctl was built without `dev`, which brings a server and agents along",
            "Build it on Linux with its usual features: `cargo build --release -p kernexctl`.",
        )),
        Command::Completion { shell } => commands::completion::run(shell),
    }
}
