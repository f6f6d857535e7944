//! `deployment halt`: every connected device hears it at once, and the operator hears what became
//! of each.

mod downloads;
mod going_back;

use std::{collections::BTreeMap, fs};

use kernex_integration_tests::{
    Ctl, Database, Operator, RawSession, TestServer, both_databases,
    raw_agent::{failed, succeeded},
    wait::{next_message, wait_for},
};
use kernex_proto::v1::{
    AttemptState, Command, DeploymentResult, FailureReason, HaltDeploymentRequest,
    HaltDeploymentResponse, HaltStanding, HaltedDevice, Outcome, Progress, Report, Step,
    command::Action, device_session_request as up, report,
};
use tonic::{Code, Status, Streaming};

async fn halt(operator: &Operator, id: &str) -> Result<Streaming<HaltDeploymentResponse>, Status> {
    let request = HaltDeploymentRequest {
        deployment_id: id.into(),
        ..Default::default()
    };
    let answer = operator.rollouts().halt_deployment(request).await?;
    Ok(answer.into_inner())
}

/// Reads a halt until so many devices are missing; collects the standing of each by name.
async fn until(
    stream: &mut Streaming<HaltDeploymentResponse>,
    devices: &mut BTreeMap<String, HaltedDevice>,
    missing: u32,
) {
    loop {
        let message = next_message(stream).await.expect("it goes on");
        let message = message.expect("a message");
        for device in message.devices {
            devices.insert(device.device_name.clone(), device);
        }
        if message.waiting == missing {
            return;
        }
    }
}

fn cancelled() -> Outcome {
    Outcome {
        state: AttemptState::Cancelled.into(),
        ..Outcome::default()
    }
}

/// Waits for the stop of an attempt.
async fn stop(session: &mut RawSession, of: &Command) {
    let stop = session.command().await;
    assert!(matches!(stop.action, Some(Action::Stop(_))), "{stop:?}");
    assert_eq!(stop.attempt, of.attempt);
}

both_databases![
    a_halt_names_who_answered_and_reaches_offline_devices_later,
    an_attempt_that_ended_before_the_halt_keeps_its_outcome,
    an_old_agent_acknowledges_a_halt_by_its_outcome,
    a_halt_kills_running_scripts,
    devices_that_do_not_answer_a_halt_in_time_are_named,
];

async fn a_halt_names_who_answered_and_reaches_offline_devices_later(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut here = server.raw_device("here").await;
    let mut away = server.raw_device("away").await;
    server.raw_device("never").await;
    let mut session = here.connect(&server).await;
    let mut other = away.connect(&server).await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let id = operator.deploy(&bundle, &["here", "away", "never"]).await;
    let (command, _) = session.deploy_command().await;
    session.accept(&command, 1).await;
    let (lost, _) = other.deploy_command().await;
    other.accept(&lost, 1).await;
    drop(other);
    operator.offline("away").await;

    let mut stream = halt(&operator, &id).await.unwrap();
    let mut devices = BTreeMap::new();
    until(&mut stream, &mut devices, 2).await;
    let stands = |devices: &BTreeMap<String, HaltedDevice>, name: &str| {
        (devices[name].acknowledged, devices[name].online)
    };
    assert_eq!(stands(&devices, "here"), (false, true));
    assert_eq!(stands(&devices, "away"), (false, false));
    assert_eq!(stands(&devices, "never"), (true, false), "it had not begun");
    stop(&mut session, &command).await;
    session.outcome(&command, 2, cancelled()).await;
    until(&mut stream, &mut devices, 1).await;
    assert!(devices["here"].acknowledged);
    assert_eq!(devices["here"].standing(), HaltStanding::Stopped);
    assert_eq!(devices["away"].standing(), HaltStanding::Offline);
    assert_eq!(devices["never"].standing(), HaltStanding::NeverBegun);
    // Another operator who halts it again sees the same.
    let mut second = halt(&operator, &id).await.unwrap();
    until(&mut second, &mut BTreeMap::new(), 1).await;

    let mut back = away
        .connect_holding(&server, &lost, AttemptState::Accepted)
        .await;
    stop(&mut back, &lost).await;
    back.outcome(&lost, 2, cancelled()).await;
    until(&mut stream, &mut devices, 0).await;
    assert!(
        devices.values().all(|device| device.acknowledged),
        "{devices:?}"
    );
    assert!(
        next_message(&mut stream).await.unwrap().is_none(),
        "nobody is missing"
    );
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Cancelled
    );
    let over = halt(&operator, &id).await.unwrap_err();
    assert_eq!(over.code(), Code::FailedPrecondition);
}

async fn an_attempt_that_ended_before_the_halt_keeps_its_outcome(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut done = server.raw_device("done").await;
    let mut session = device.connect(&server).await;
    let mut other = done.connect(&server).await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let id = operator.deploy(&bundle, &["edge-1", "done"]).await;
    let (command, _) = session.deploy_command().await;
    session.accept(&command, 1).await;
    let (theirs, deploy) = other.deploy_command().await;
    other.outcome(&theirs, 1, succeeded(&deploy)).await;
    // The script was cut off before the halt arrived; the agent reports that when it is back.
    drop(session);
    operator.offline("edge-1").await;
    let mut stream = halt(&operator, &id).await.unwrap();
    let mut devices = BTreeMap::new();
    until(&mut stream, &mut devices, 1).await;
    assert_eq!(devices["edge-1"].standing(), HaltStanding::Offline);
    let mut back = device
        .connect_holding(&server, &command, AttemptState::Failed)
        .await;
    let outcome = failed(FailureReason::Interrupted, "cut off");
    back.outcome(&command, 2, outcome).await;
    until(&mut stream, &mut devices, 0).await;
    let edge = &devices["edge-1"];
    assert_eq!(
        (edge.standing(), edge.state()),
        (HaltStanding::Ended, AttemptState::Failed)
    );
    assert_eq!(
        (edge.reason(), edge.acknowledged),
        (FailureReason::Interrupted, true)
    );
    assert_eq!(devices.len(), 1, "what was done before is counted only");
}

/// An old agent never reports `stopped`; a new one does before its outcome.
async fn an_old_agent_acknowledges_a_halt_by_its_outcome(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut sessions = Vec::new();
    for name in ["new", "old"] {
        let mut device = server.raw_device(name).await;
        sessions.push(device.connect(&server).await);
    }
    let bundle = operator.push_script("app", "1.0", "true").await;
    let id = operator.deploy(&bundle, &["new", "old"]).await;
    let mut commands = Vec::new();
    for session in &mut sessions {
        let (command, _) = session.deploy_command().await;
        session.accept(&command, 1).await;
        commands.push(command);
    }
    let mut stream = halt(&operator, &id).await.unwrap();
    let mut devices = BTreeMap::new();
    until(&mut stream, &mut devices, 2).await;
    let says = |stopped| {
        up::Message::Report(Report {
            attempt: None,
            event: Some(report::Event::Progress(Progress {
                step: Step::Rollback.into(),
                stopped,
                ..Default::default()
            })),
            ..Default::default()
        })
    };
    for (index, stopped) in [(0, true), (1, false)] {
        stop(&mut sessions[index], &commands[index]).await;
        let up::Message::Report(mut told) = says(stopped) else {
            unreachable!()
        };
        told.attempt = commands[index].attempt.clone();
        sessions[index].send(up::Message::Report(told)).await;
    }
    until(&mut stream, &mut devices, 1).await;
    assert_eq!(devices["new"].standing(), HaltStanding::GoingBack);
    assert_eq!(devices["old"].standing(), HaltStanding::NotAnswered);
    for (session, command) in sessions.iter_mut().zip(&commands) {
        session.outcome(command, 2, cancelled()).await;
    }
    until(&mut stream, &mut devices, 0).await;
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Cancelled
    );
}

async fn a_halt_kills_running_scripts(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let operator = server.operator();
    let started = server.scratch().join("started");
    let ended = server.scratch().join("ended");
    let _agent = server.agent("edge-1").await;
    let script = format!(
        "echo > {}; sleep 600; echo > {}",
        started.display(),
        ended.display()
    );
    let bundle = operator.push_script("app", "1.0", &script).await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    wait_for("the script to run", || async {
        fs::metadata(&started).map_err(|error| error.to_string())
    })
    .await;
    let halted = ctl.json(&["deployment", "halt", &id, "--yes", "--timeout", "60s"]);
    assert_eq!(halted[0]["acknowledged"], true, "{halted}");
    assert!(!ended.exists());
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Cancelled
    );
}

async fn devices_that_do_not_answer_a_halt_in_time_are_named(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let operator = server.operator();
    let mut device = server.raw_device("silent").await;
    let mut session = device.connect(&server).await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let id = operator.deploy(&bundle, &["silent"]).await;
    let (command, _) = session.deploy_command().await;
    session.accept(&command, 1).await;
    let done = ctl.run(&["deployment", "halt", &id, "--yes", "--timeout", "2s"]);
    assert_eq!(done.code, Some(6), "{}", done.stderr);
    assert!(done.stdout.contains("silent"), "{}", done.stdout);
    assert!(
        done.stderr
            .contains("no acknowledgement from 1 of 1 device within 2s"),
        "{}",
        done.stderr
    );
    let asked = ctl.run(&["deployment", "halt", &id]);
    assert_eq!(asked.code, Some(2), "it asks first: {}", asked.stderr);
}
