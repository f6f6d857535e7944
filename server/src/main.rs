//! The `kernex-server` program: arguments in, exit code out.

mod allocator;

use std::process::ExitCode;

use clap::Parser as _;
use kernex_proto::near::Stranger;
use kernex_server::{
    AdminTokenFile, Config, Shutdown,
    config::{Cli, Command, strange_variables},
    edge::{listener, observe, probe::probe},
    store::CopiedTable,
};

#[tokio::main]
async fn main() -> ExitCode {
    // All files that this program makes are for its own user: the database, bundles, keys.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    match run_command(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kernex-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run_command(command: Command) -> anyhow::Result<()> {
    if !matches!(
        command,
        Command::Serve(_) | Command::CheckConfig(_) | Command::Probe(_)
    ) {
        for stranger in strangers() {
            eprintln!("warning: environment: {stranger}");
        }
    }
    match command {
        Command::Serve(options) => serve(Config::resolve(options)?).await,
        Command::Migrate(options) => kernex_server::migrate(&Config::resolve(options)?).await,
        Command::AdminToken { replace, options } => {
            let config = Config::resolve(options)?;
            print_admin_token(
                &kernex_server::admin_token(&config, replace).await?,
                replace,
            );
            Ok(())
        }
        Command::CheckConfig(options) => {
            let config = Config::resolve(options)?;
            check_environment()?;
            print_valid(&config);
            print_untried();
            Ok(())
        }
        Command::CopyDatabase { to, options } => {
            let copied = kernex_server::copy_database(&Config::resolve(options)?, &to).await?;
            print_copied(&copied);
            Ok(())
        }
        Command::Probe(options) => probe(Config::resolve(options)?.network.metrics_listen),
    }
}

/// Variables of the environment that look like settings and are none.
fn strangers() -> Vec<Stranger> {
    strange_variables(std::env::vars_os().map(|(name, _)| name))
}

/// Refuses mistyped names of settings in the environment. They would have no effect.
fn check_environment() -> anyhow::Result<()> {
    let strangers = strangers();
    let (mistyped, others): (Vec<_>, Vec<_>) = strangers
        .iter()
        .partition(|stranger| stranger.meant.is_some());
    for other in others {
        eprintln!("note: environment: {other}");
    }
    if mistyped.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = mistyped.iter().map(ToString::to_string).collect();
    anyhow::bail!("the environment is not valid: {}", all.join("; "))
}

#[expect(clippy::print_stdout, reason = "the answer to what was asked")]
fn print_valid(config: &Config) {
    println!(
        "The configuration is valid: data in {}, listening on {}.",
        config.data_dir.display(),
        config.network.listen
    );
}

#[expect(clippy::print_stdout, reason = "the answer to what was asked")]
fn print_untried() {
    println!("Nothing was tried: neither the database nor the bundle store was opened.");
}

#[expect(clippy::print_stdout, reason = "the answer to what was asked")]
fn print_copied(copied: &[CopiedTable]) {
    for table in copied.iter().filter(|table| table.rows > 0) {
        println!("{:>10} {}", table.rows, table.name);
    }
    println!(
        "Copied. Start the server with the new --database-url and the same data folder, and never again on the old database."
    );
}

#[expect(clippy::print_stdout, reason = "says what was done")]
fn print_admin_token(written: &AdminTokenFile, replaced: bool) {
    let AdminTokenFile { made, path } = written;
    let until = made.token.expires_at.to_proto();
    println!(
        "The new admin token `{}` is in {}; it works until {until}. What was in that file before is gone.",
        made.name,
        path.display(),
    );
    println!(
        "Contexts of kernexctl have a copy of their token: give it to them with `kernexctl context add NAME --server URL \
         --ca FILE --token-file FILE --replace`."
    );
    for earlier in &made.earlier {
        let (name, id) = (&earlier.name, earlier.id);
        if replaced {
            println!(
                "`{name}` ({id}) is revoked; a server that runs hears of it within 5 seconds."
            );
        } else {
            println!(
                "`{name}` ({id}) still works until {}. To end it: kernexctl token revoke {id}, or --replace here.",
                earlier.expires_at.to_proto()
            );
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let telemetry = observe::init(config.log_format)?;
    for Stranger { name, meant } in strangers() {
        let meant = meant.as_deref();
        tracing::warn!(
            variable = name,
            meant,
            "no setting has the name of this variable"
        );
    }
    let listener = listener::bind(config.network.listen)?;
    let shutdown = Shutdown::new();
    let result = tokio::select! {
        result = kernex_server::run(config, listener, shutdown.clone()) => result,
        // Waits for signals beside the server. Ends only when there can be none.
        error = signals(shutdown) => Err(error),
    };
    telemetry.shutdown().await;
    result
}

async fn signals(shutdown: Shutdown) -> anyhow::Error {
    match shutdown.follow_signals().await {
        Err(error) => anyhow::Error::new(error).context("cannot listen for signals"),
        // After the second signal the server drops everything by itself.
        Ok(()) => std::future::pending().await,
    }
}
