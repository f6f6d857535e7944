//! The program around the agent: arguments, logs, signals, exit code.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use kernex_proto::{service, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Args, Command, Config, config, start};

/// Runs the program with the arguments of this process.
pub async fn main() -> ExitCode {
    let typed = Args::command().get_matches();
    match Box::pin(begin(&typed)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut err = std::io::stderr().lock();
            let _ = writeln!(err, "kernex-agent: {error:#}");
            let identity = error.downcast_ref::<crate::IdentityError>();
            if let Some(next) = identity.and_then(crate::IdentityError::next_step) {
                let _ = writeln!(err, "  next: {next}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn begin(typed: &ArgMatches) -> anyhow::Result<()> {
    let args = Args::from_arg_matches(typed)
        .unwrap_or_else(|error| error.format(&mut Args::command()).exit());
    if args.command == Command::CheckConfig {
        return check_config(&args.into_config()?);
    }
    let guard = telemetry::init("kernex-agent", &args.log, args.log_format())?;
    let command = args.command.clone();
    let (mut config, invalid) = match command {
        Command::SupportBundle { .. } => args.into_config_or_defaults(),
        _ => (args.into_config()?, None),
    };
    config.log_filter = Some(guard.log_filter());
    let shutdown = CancellationToken::new();
    let signals = TaskTracker::new();
    signals.spawn(watch_signals(shutdown.clone())?);
    let result = match command {
        Command::Enroll { new_key } => Box::pin(enroll(&config, new_key, typed)).await,
        Command::Run { .. } => match start::refuse_final(&config.state_dir) {
            Err(error) => Err(error),
            Ok(()) => {
                signals.spawn(service::watchdog(shutdown.clone()));
                // From here on it waits for whatever is not there, such as the network or its
                // server.
                service::ready("not connected yet");
                Box::pin(crate::run(config, shutdown)).await
            }
        },
        Command::Journal => show_journal(&config),
        Command::Status { json } => show_status(&config, json),
        Command::Doctor => Box::pin(examine(&config)).await,
        Command::CheckConfig => check_config(&config),
        Command::SupportBundle { output } => {
            Box::pin(crate::support::run(&config, invalid, &output)).await
        }
    };
    guard.shutdown().await;
    result
}

async fn enroll(config: &Config, new_key: bool, typed: &ArgMatches) -> anyhow::Result<()> {
    let token = config.token.as_ref().context(
        "the enrolment token is missing; give --token-file (a token comes from `kernexctl enrollment create`)",
    )?;
    let identity = if new_key {
        crate::enroll_anew(config, token).await?
    } else {
        crate::enroll(config, token).await?
    };
    writeln!(
        std::io::stdout(),
        "enrolled as {} ({}); start the agent with `{}`",
        identity.name,
        identity.device,
        config::run_command(typed)
    )?;
    Ok(())
}

/// Says that the configuration is valid, and which variables look like settings and are none.
fn check_config(config: &Config) -> anyhow::Result<()> {
    let names = std::env::vars_os().map(|(name, _)| name);
    let strangers = crate::config::strange_variables(names);
    let (mistyped, others): (Vec<_>, Vec<_>) = strangers
        .iter()
        .partition(|stranger| stranger.meant.is_some());
    for other in others {
        writeln!(std::io::stderr(), "note: environment: {other}")?;
    }
    if !mistyped.is_empty() {
        let all: Vec<String> = mistyped.iter().map(ToString::to_string).collect();
        anyhow::bail!("the environment is not valid: {}", all.join("; "));
    }
    let server = match config.servers.as_slice() {
        [] => "the one of the enrolment".to_owned(),
        servers => servers.join(", "),
    };
    writeln!(
        std::io::stdout(),
        "The configuration is valid: state in {}, server {server}.",
        config.state_dir.display()
    )?;
    Ok(())
}

fn show_journal(config: &Config) -> anyhow::Result<()> {
    let path = config.state_dir.join("journal.redb");
    let attempts = crate::journal::attempts(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut out = std::io::stdout().lock();
    for attempt in attempts {
        match writeln!(out, "{attempt}") {
            // The reader closed the pipe.
            Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => break,
            written => written?,
        }
    }
    Ok(())
}

fn show_status(config: &Config, json: bool) -> anyhow::Result<()> {
    let status = crate::status::read_status(config)?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&status)?)?;
    } else {
        writeln!(out, "{}", status.lines().join("\n"))?;
    }
    if let Some(fault) = status.identity_fault() {
        anyhow::bail!("this agent cannot be started again: {fault}");
    }
    anyhow::ensure!(
        status.is_well(),
        "the agent is not connected; `kernex-agent doctor{}` looks for the reason",
        config::state_dir_flag(&config.state_dir)
    );
    Ok(())
}

async fn examine(config: &Config) -> anyhow::Result<()> {
    let checks = crate::doctor::checks(config).await;
    let mut out = std::io::stdout().lock();
    for check in &checks {
        writeln!(out, "{}", check.text())?;
    }
    let failed = checks.iter().filter(|check| !check.is_good()).count();
    anyhow::ensure!(failed == 0, "{failed} of {} checks failed", checks.len());
    Ok(())
}

/// The first signal stops the agent in good order, a second one at once.
fn watch_signals(
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        for first in [true, false] {
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if first {
                tracing::info!(signal, "stopping");
                service::stopping();
                shutdown.cancel();
            } else {
                std::process::exit(1);
            }
        }
    })
}
