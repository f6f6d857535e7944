//! `kernex-chaos`: runs scenarios, prints their figures, and everything there is to see when one
//! fails.

use std::{
    convert::Infallible,
    io::Write as _,
    panic::resume_unwind,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser as _;
use tokio::{signal, task::JoinSet};

use super::{
    Failure, Figures, Plan, SCENARIOS, Scenario,
    args::{Cli, Command, Run},
};
use crate::binaries;

/// Scenarios that CI runs at once: each spends much of its time waiting for programs to come up.
const CI_AT_ONCE: usize = 3;

/// Interval of progress messages.
const BETWEEN_WORDS: Duration = Duration::from_secs(60);

/// Exit code after Ctrl-C, as in shells.
const INTERRUPTED: u8 = 130;

/// Runs the program with the arguments of this process.
pub async fn main() -> ExitCode {
    match Cli::parse().command {
        Command::List => {
            for scenario in SCENARIOS {
                print_line(&format!(
                    "{:10} {:6} {}",
                    scenario.name, scenario.ci, scenario.about
                ));
            }
            ExitCode::SUCCESS
        }
        Command::Ci { seed } => {
            let plans = SCENARIOS.iter().flat_map(|scenario| {
                let plan = |&database| (scenario, Plan::new(seed_or(seed), scenario.ci, database));
                scenario.databases.iter().map(plan).collect::<Vec<_>>()
            });
            run_all(plans.collect(), CI_AT_ONCE).await
        }
        Command::Run(run) => match plans(&run) {
            Ok(plans) => run_all(plans, 1).await,
            Err(why) => {
                say_aside(&why);
                ExitCode::from(2)
            }
        },
    }
}

fn plans(run: &Run) -> Result<Vec<(&'static Scenario, Plan)>, String> {
    let scenario = SCENARIOS
        .iter()
        .find(|scenario| scenario.name == run.scenario)
        .ok_or_else(|| {
            format!(
                "there is no scenario {:?}; see `kernex-chaos list`",
                run.scenario
            )
        })?;
    let databases = match run.database {
        Some(kind) => vec![kind.into()],
        None => scenario.databases.to_vec(),
    };
    let plan = |database| Plan {
        devices: run.devices.map(usize::from),
        only: run.only.clone(),
        ..Plan::new(
            seed_or(run.seed),
            run.count.unwrap_or(scenario.ci),
            database,
        )
    };
    Ok(databases
        .into_iter()
        .map(|database| (scenario, plan(database)))
        .collect())
}

fn seed_or(seed: Option<u64>) -> u64 {
    seed.unwrap_or_else(rand::random)
}

/// Runs scenarios side by side and prints each when it has ended.
async fn run_all(plans: Vec<(&'static Scenario, Plan)>, at_once: usize) -> ExitCode {
    // Build first: a failed build is no finding, and its time must not count.
    let _ = binaries::path("kernex-agent");
    let mut failed = 0;
    let mut waiting = plans.into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < at_once
            && let Some((scenario, plan)) = waiting.next()
        {
            running.spawn(one(scenario, plan));
        }
        let ended = tokio::select! {
            ended = running.join_next() => ended,
            _ = signal::ctrl_c() => {
                // Dropping the runs stops every program they started.
                say_aside("interrupted");
                return ExitCode::from(INTERRUPTED);
            }
        };
        match ended {
            None => return ExitCode::from(u8::from(failed > 0)),
            Some(Ok(good)) => failed += usize::from(!good),
            Some(Err(error)) => resume_unwind(error.into_panic()),
        }
    }
}

/// Runs one and prints its result; returns whether it passed.
async fn one(scenario: &'static Scenario, plan: Plan) -> bool {
    let title = format!(
        "{} on {:?}, {} faults, seed {}",
        scenario.name, plan.database, plan.count, plan.seed
    );
    say_aside(&title);
    let start = Instant::now();
    let ended = tokio::select! {
        ended = guarded(scenario, plan.clone()) => ended,
        never = print_progress(&title, &plan) => match never {},
    };
    match ended {
        Ok(figures) => {
            let took = rounded(start.elapsed());
            print_line(&format!("{title}: good ({took:.0?})\n{figures}"));
            true
        }
        Err(failure) => {
            print_line(&format!(
                "{title}: FAILED\n{failure}\n--- what was done ---\n{}--- again with: --seed {} ---",
                plan.history, plan.seed
            ));
            false
        }
    }
}

/// Prints progress; long runs take an hour.
async fn print_progress(title: &str, plan: &Plan) -> Infallible {
    let start = Instant::now();
    loop {
        tokio::time::sleep(BETWEEN_WORDS).await;
        let (done, took) = (plan.history.len(), rounded(start.elapsed()));
        say_aside(&format!("{title}: {done} steps after {took:.0?}"));
    }
}

/// A panic of the harness fails the scenario and not the program, so that the seed and the history
/// are shown.
async fn guarded(scenario: &'static Scenario, plan: Plan) -> Result<Figures, Failure> {
    let mut task = JoinSet::new();
    task.spawn(async move { (scenario.run)(&plan).await });
    match task.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) if error.is_panic() => Err(Failure::new(panic_text(error.into_panic()))),
        Some(Err(error)) => resume_unwind(Box::new(error)),
        None => Err(Failure::new("the scenario did not run")),
    }
}

fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "the scenario panicked".to_owned())
}

fn rounded(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

fn print_line(text: &str) {
    // A closed pipe is no error.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn say_aside(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
