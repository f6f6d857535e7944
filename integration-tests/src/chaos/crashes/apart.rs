//! Points that are passed once in the life of a machine, or only when somebody else does wrong: a
//! first start, a first enrolment, a damaged journal, a command that makes no sense. Each is taken
//! by programs of its own.

use std::{fs, process::ExitStatus, time::Instant};

use kernex_proto::{
    crash::VARIABLE,
    v1::{AttemptState, Deploy, FailureReason, command::Action, device_session_request as up},
};
use tempfile::TempDir;
use tokio::{process::Command, task::block_in_place};

use super::{BETWEEN_GLANCES, LIMIT, ended, points::ArmedPoint, was_killed};
use crate::{
    BundleBuilder, Database, ServerOptions, TestAgent, TestServer, agent,
    chaos::{Failure, Figures, Plan},
    fake_server::FakeServer,
    process::Process,
    server,
};

pub(super) async fn take(plan: &Plan, armed_points: Vec<ArmedPoint>) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    for armed in armed_points {
        let start = Instant::now();
        match armed.act {
            "file.private" => first_start(&armed).await,
            "file.create" => first_enrolment(&armed).await,
            "journal.refuse" => senseless_command(&armed).await,
            "journal.set-aside" | "journal.release" => damaged_journal(&armed).await,
            _ => Err(Failure::new(format!("nobody knows how to take {armed}"))),
        }?;
        plan.history
            .note(format_args!("{armed}: {:.1?}", start.elapsed()));
        figures.count("crashes", 1);
        figures.count("crashes apart", 1);
    }
    Ok(figures)
}

fn folder() -> Result<TempDir, Failure> {
    let made = TempDir::with_prefix("kernex-apart-");
    made.map_err(|error| Failure::new(format!("no folder: {error}")))
}

/// A server that dies while it makes its keys comes up the next time, and lets its first operator
/// in.
async fn first_start(armed: &ArmedPoint) -> Result<(), Failure> {
    let folder = folder()?;
    let data = folder.path().join("data");
    let mut command = server::command("serve");
    command
        .args(["--listen", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(&data)
        .env(VARIABLE, armed.setting());
    let mut process = Process::spawn("kernex-server", command, &folder.path().join("first.log"));
    let end = Instant::now() + LIMIT;
    loop {
        match process.exited() {
            Some(status) if was_killed(status) => break,
            None if Instant::now() < end => tokio::time::sleep(BETWEEN_GLANCES).await,
            seen => {
                let what = format!("{armed} was not passed by a first start: {seen:?}");
                return Err(Failure::new(what).with_dump(process.tail()));
            }
        }
    }
    let options = ServerOptions::default().data(data.clone());
    let again = TestServer::start_with(Database::Sqlite, options).await;
    let known = again.operator().who_am_i().await;
    known.map_err(|status| Failure::new(format!("after {armed} nobody is let in: {status}")))?;
    let names = fs::read_dir(&data).into_iter().flatten().flatten();
    let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    match names.find(|name| name.starts_with('.')) {
        Some(left) => Err(Failure::new(format!("after {armed} {left} is left"))),
        None => Ok(()),
    }
}

/// A device that dies while it makes its key enrols the next time, with the key it has if it has
/// one.
async fn first_enrolment(armed: &ArmedPoint) -> Result<(), Failure> {
    let (folder, server) = (folder()?, FakeServer::start().await);
    let enrol = |armed: Option<String>| {
        let mut command = Command::from(agent::bare_command("enroll"));
        command
            .arg("--state-dir")
            .arg(folder.path())
            .args([
                "--server",
                &server.url(),
                "--token",
                &server.token(),
                "--name",
                "edge-1",
            ])
            .envs(armed.map(|armed| (VARIABLE, armed)));
        async move {
            let output = command.output().await;
            output.map_err(|error| Failure::new(format!("kernex-agent does not start: {error}")))
        }
    };
    let key = || fs::read(folder.path().join("device.key")).ok();
    let died = enrol(Some(armed.setting())).await?;
    must_be_killed(armed, died.status)?;
    let before = key();
    let end = Instant::now() + LIMIT;
    let mut again = enrol(None).await?;
    // On a busy machine an answer may take longer than one try waits for it.
    while !again.status.success() && Instant::now() < end {
        again = enrol(None).await?;
    }
    if !again.status.success() || key().is_none() || before.is_some() && before != key() {
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        return Err(Failure::new(format!("after {armed} it does not enrol well")).with_dump(said));
    }
    Ok(())
}

/// A command that cannot be tried is answered after the crash.
async fn senseless_command(armed: &ArmedPoint) -> Result<(), Failure> {
    let (folder, mut server) = (folder()?, FakeServer::start().await);
    let mut agent = arm_agent(
        armed,
        block_in_place(|| server.agent(folder.path())),
        &mut server,
    )
    .await;
    let senseless = Action::Deploy(Deploy {
        name: "app".to_owned(),
        digest: "nonsense".to_owned(),
        ..Deploy::default()
    });
    let attempt = server.command(Some(senseless.clone())).await;
    must_die(armed, &mut agent).await?;
    agent.start_again();
    session(&mut server).await;
    server.command_for(attempt, Some(senseless)).await;
    let outcome = server.outcome(attempt).await;
    if (outcome.state(), outcome.reason()) != (AttemptState::Failed, FailureReason::Internal) {
        return Err(Failure::new(format!(
            "after {armed} the answer is {outcome:?}"
        )));
    }
    Ok(())
}

/// A device whose journal is damaged sets it aside, still knows what is current, and takes the next
/// deployment.
async fn damaged_journal(armed: &ArmedPoint) -> Result<(), Failure> {
    let (folder, mut server) = (folder()?, FakeServer::start().await);
    let mut agent = block_in_place(|| server.agent(folder.path()));
    let deploy = async |server: &mut FakeServer, version: &str| {
        let archive = BundleBuilder::script("app", version, "true").gzip().await;
        let outcome = server.outcome_of(server.bundle("app", archive)).await;
        match outcome.state() {
            AttemptState::Succeeded => Ok(()),
            _ => Err(Failure::new(format!(
                "{armed}: {version} ended as {outcome:?}"
            ))),
        }
    };
    deploy(&mut server, "1.0").await?;
    block_in_place(|| agent.stop());
    let journal = agent.state.join("journal.redb");
    fs::write(&journal, vec![0xa5; 64 * 1024])
        .map_err(|error| Failure::new(format!("the journal cannot be damaged: {error}")))?;
    let release = agent.current("app");
    agent.start_again_with(Some((VARIABLE, &armed.setting())));
    must_die(armed, &mut agent).await?;
    agent.start_again();
    deploy(&mut server, "2.0").await?;
    let kept = agent.state.join("journal.redb.corrupt-1").exists();
    let previous_is_there = release.is_some_and(|release| release.is_dir());
    if !kept || !previous_is_there {
        let what = format!(
            "after {armed}: damaged journal kept {kept}, release before {previous_is_there}"
        );
        return Err(Failure::new(what).with_dump(agent.process().tail()));
    }
    Ok(())
}

/// The same agent, started again with the point armed and in a session.
async fn arm_agent(armed: &ArmedPoint, mut agent: TestAgent, server: &mut FakeServer) -> TestAgent {
    session(server).await;
    agent.kill();
    agent.start_again_with(Some((VARIABLE, &armed.setting())));
    session(server).await;
    agent
}

async fn session(server: &mut FakeServer) {
    let is_ready = |message| matches!(message, up::Message::Ready(_)).then_some(());
    server.next_where("a session", is_ready).await;
}

async fn must_die(armed: &ArmedPoint, agent: &mut TestAgent) -> Result<(), Failure> {
    let Ok(status) = tokio::time::timeout(LIMIT, ended(agent)).await else {
        let what = format!("{armed} was never passed");
        return Err(Failure::new(what).with_dump(agent.process().tail()));
    };
    must_be_killed(armed, status)
}

fn must_be_killed(armed: &ArmedPoint, status: ExitStatus) -> Result<(), Failure> {
    match was_killed(status) {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "on the way to {armed} it ended with {status}"
        ))),
    }
}
