//! `deployment halt`: every connected device hears it at once, and the operator hears what became
//! of each.

use std::{collections::BTreeMap, fs, path::Path, time::Instant};

use kernex_integration_tests::{
    AgentOptions, BundleBuilder, Ctl, Database, Operator, Proxy, RawIdentity, RawSession,
    ServerOptions, TestServer, both_databases, bundle, keys,
    raw_agent::{failed, succeeded},
    wait::{seen, wait_for},
};
use kernex_proto::v1::{
    AttemptState, Command, DeploymentResult, FailureReason, HaltDeploymentRequest,
    HaltDeploymentResponse, HaltStanding, HaltedDevice, Outcome, Progress, Report, Step, Target,
    command::Action, device_session_request as up, report,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
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
        let message = stream
            .message()
            .await
            .expect("it goes on")
            .expect("a message");
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

/// A release whose rollback script waits for a file `back` and writes down its process id.
fn slow_to_return(scratch: &Path) -> Value {
    let script = format!(
        "echo $$ > {}; until test -e {}; do sleep 0.05; done",
        scratch.join("returning").display(),
        scratch.join("back").display()
    );
    json!({"name": "app", "version": "1.0", "rollback": {"script": script}})
}

/// A script that writes down its process id and ignores SIGTERM.
fn stubborn(scratch: &Path) -> Value {
    let script = format!(
        "trap '' TERM; echo $$ > {}; while true; do sleep 0.05; done",
        scratch.join("stubborn").display()
    );
    json!({"name": "app", "version": "2.0", "deploy": {"script": script}})
}

/// Waits until a script has written its process id.
async fn pid(file: &Path) -> String {
    wait_for("a script to say its process id", || async {
        let text = fs::read_to_string(file)
            .unwrap_or_default()
            .trim()
            .to_owned();
        seen(!text.is_empty(), text)
    })
    .await
}

fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// Waits until the only target of a deployment is shown to be going back.
async fn going_back(operator: &Operator, id: &str) -> Target {
    wait_for("the device to be shown going back", || async {
        let target = operator.target(id).await;
        let step = target.progress.as_ref().map(Progress::step);
        seen(step == Some(Step::Rollback), target)
    })
    .await
}

/// Waits for the stop of an attempt.
async fn stop(session: &mut RawSession, of: &Command) {
    let stop = session.command().await;
    assert!(matches!(stop.action, Some(Action::Stop(_))), "{stop:?}");
    assert_eq!(stop.attempt, of.attempt);
}

both_databases![
    a_halt_names_who_answered_and_reaches_offline_devices_later,
    a_halt_is_acknowledged_before_the_device_goes_back,
    a_second_halt_stops_going_back_and_names_the_unfinished_script,
    a_cancel_does_not_interrupt_going_back,
    an_attempt_that_ended_before_the_halt_keeps_its_outcome,
    an_old_agent_acknowledges_a_halt_by_its_outcome,
    a_halt_kills_running_scripts,
    a_halt_aborts_a_download_and_leaves_no_file_of_it,
    devices_that_do_not_answer_a_halt_in_time_are_named,
    two_hundred_downloads_are_halted_together,
];

async fn a_halt_names_who_answered_and_reaches_offline_devices_later(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut here = server.raw_device("here").await;
    let mut away = server.raw_device("away").await;
    server.raw_device("never").await;
    let mut session = here.connect(&server).await;
    let mut other = away.connect(&server).await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
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
        stream.message().await.unwrap().is_none(),
        "nobody is missing"
    );
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Cancelled
    );
    let over = halt(&operator, &id).await.unwrap_err();
    assert_eq!(over.code(), Code::FailedPrecondition);
}

async fn a_halt_is_acknowledged_before_the_device_goes_back(database: Database) {
    let server = TestServer::start(database).await;
    let (ctl, operator, scratch) = (
        Ctl::on(&server),
        server.operator(),
        server.scratch().to_owned(),
    );
    let _agent = server.agent("edge-1").await;
    let good = operator
        .push(
            &BundleBuilder::with_manifest(&slow_to_return(&scratch))
                .gzip()
                .await,
        )
        .await;
    operator.deploy_and_finish(&good, "edge-1").await;
    let bad = operator
        .push(
            &BundleBuilder::with_manifest(&stubborn(&scratch))
                .gzip()
                .await,
        )
        .await;
    let id = operator.deploy(&bad, &["edge-1"]).await;
    let script = pid(&scratch.join("stubborn")).await;

    let halted = ctl.json(&["deployment", "halt", &id, "--yes", "--timeout", "60s"]);
    assert_eq!(
        (&halted[0]["acknowledged"], &halted[0]["standing"]),
        (&true.into(), &"going_back".into()),
        "{halted}"
    );
    assert!(
        !lives(&script),
        "it is acknowledged once the script is dead"
    );
    let target = going_back(&operator, &id).await;
    assert!(
        target.progress.as_ref().is_some_and(|now| now.stopped),
        "{target:?}"
    );
    assert_eq!(
        target.state(),
        AttemptState::Running,
        "what runs is not known yet"
    );
    let table = ctl.ok(&["deployment", "get", &id]);
    assert!(table.contains("going back, stopped"), "{table}");
    let device = operator.device("edge-1").await;
    assert_eq!(device.releases[0].digest, good.digest, "{device:?}");

    fs::write(scratch.join("back"), "").unwrap();
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Cancelled
    );
    let target = operator.target(&id).await;
    assert_eq!(
        (target.state(), target.message.as_str()),
        (
            AttemptState::Cancelled,
            "stopped by an operator; went back to 1.0"
        )
    );
}

async fn a_second_halt_stops_going_back_and_names_the_unfinished_script(database: Database) {
    for halted_before in [false, true] {
        let server = TestServer::start(database).await;
        let (ctl, operator, scratch) = (
            Ctl::on(&server),
            server.operator(),
            server.scratch().to_owned(),
        );
        let agent = server.agent("edge-1").await;
        let good = operator
            .push(
                &BundleBuilder::with_manifest(&slow_to_return(&scratch))
                    .gzip()
                    .await,
            )
            .await;
        operator.deploy_and_finish(&good, "edge-1").await;
        let bad = if halted_before {
            stubborn(&scratch)
        } else {
            json!({"name": "app", "version": "2.0", "deploy": {"script": "exit 3"}})
        };
        let bad = operator
            .push(&BundleBuilder::with_manifest(&bad).gzip().await)
            .await;
        let id = operator.deploy(&bad, &["edge-1"]).await;
        if halted_before {
            pid(&scratch.join("stubborn")).await;
            let halted = ctl.json(&["deployment", "halt", &id, "--yes", "--timeout", "60s"]);
            assert_eq!(halted[0]["standing"], "going_back", "{halted}");
        }
        let script = pid(&scratch.join("returning")).await;
        going_back(&operator, &id).await;
        let halted = ctl.json(&["deployment", "halt", &id, "--yes", "--timeout", "60s"]);
        assert_eq!(
            (&halted[0]["standing"], &halted[0]["reason"]),
            (&"ended".into(), &"rollback_failed".into()),
            "{halted}"
        );
        assert!(!lives(&script));
        operator.finished(&id).await;
        let target = operator.target(&id).await;
        assert_eq!(target.reason(), FailureReason::RollbackFailed, "{target:?}");
        let unfinished = "going back to 1.0 failed: rollback.script was stopped by an operator and is unfinished";
        assert!(target.message.ends_with(unfinished), "{target:?}");
        assert!(
            agent
                .current_file("app", "manifest.json")
                .unwrap()
                .contains("1.0")
        );
        assert_eq!(
            operator.device("edge-1").await.releases[0].digest,
            good.digest
        );
    }
}

async fn a_cancel_does_not_interrupt_going_back(database: Database) {
    let server = TestServer::start(database).await;
    let (ctl, operator, scratch) = (
        Ctl::on(&server),
        server.operator(),
        server.scratch().to_owned(),
    );
    let _agent = server.agent("edge-1").await;
    let good = operator
        .push(
            &BundleBuilder::with_manifest(&slow_to_return(&scratch))
                .gzip()
                .await,
        )
        .await;
    operator.deploy_and_finish(&good, "edge-1").await;
    let bad = json!({"name": "app", "version": "2.0", "deploy": {"script": "exit 3"}});
    let bad = operator
        .push(&BundleBuilder::with_manifest(&bad).gzip().await)
        .await;
    let id = operator.deploy(&bad, &["edge-1"]).await;
    let script = pid(&scratch.join("returning")).await;
    going_back(&operator, &id).await;
    let _ = ctl.ok(&["deployment", "cancel", &id, "--yes"]);
    wait_for("the device to have heard of it", || async {
        let target = operator.target(&id).await;
        seen(
            target.progress.as_ref().is_some_and(|now| now.stopped),
            target,
        )
    })
    .await;
    assert!(lives(&script));
    fs::write(scratch.join("back"), "").unwrap();
    operator.finished(&id).await;
    let target = operator.target(&id).await;
    assert_eq!(
        (target.reason(), target.message.as_str()),
        (
            FailureReason::ScriptFailed,
            "deploy.script exited with 3; went back to 1.0"
        )
    );
}

async fn an_attempt_that_ended_before_the_halt_keeps_its_outcome(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut done = server.raw_device("done").await;
    let mut session = device.connect(&server).await;
    let mut other = done.connect(&server).await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
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
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
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
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", &script).gzip().await)
        .await;
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

async fn a_halt_aborts_a_download_and_leaves_no_file_of_it(database: Database) {
    let server = TestServer::start(database).await;
    let (ctl, operator) = (Ctl::on(&server), server.operator());
    let proxy = Proxy::to(server.port()).await;
    let agent = server
        .agent_with(AgentOptions::named("edge-1").through(&proxy))
        .await;
    let bundle = operator
        .push(&bundle::noisy("app", "1.0", 32, "true").await)
        .await;
    // The whole download would take a minute.
    proxy.throttle(512 << 10);
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let begun = || {
        let files = fs::read_dir(agent.state.join("tmp"))
            .into_iter()
            .flatten()
            .flatten();
        files
            .map(|file| file.metadata().map_or(0, |meta| meta.len()))
            .collect::<Vec<_>>()
    };
    wait_for("some of the download to be on the disk", || async {
        seen(begun().iter().sum::<u64>() > 1 << 20, begun())
    })
    .await;
    // Half the time of the whole download.
    let halted = ctl.json(&["deployment", "halt", &id, "--yes", "--timeout", "30s"]);
    assert_eq!(
        (&halted[0]["device_name"], &halted[0]["acknowledged"]),
        (&"edge-1".into(), &true.into()),
        "{halted}"
    );
    assert_eq!(halted[0]["state"], "cancelled", "{halted}");
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Cancelled
    );
    assert!(proxy.bytes_down() < bundle.size_bytes, "it was aborted");
    assert_eq!(begun(), Vec::<u64>::new());
    assert_eq!(
        (agent.current("app"), agent.releases("app")),
        (None, Vec::new())
    );
    assert_eq!(agent.leftovers(), Vec::<std::path::PathBuf>::new());
}

async fn devices_that_do_not_answer_a_halt_in_time_are_named(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let operator = server.operator();
    let mut device = server.raw_device("silent").await;
    let mut session = device.connect(&server).await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
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

/// The latency is printed and not asserted, because it depends on the machine.
async fn two_hundred_downloads_are_halted_together(database: Database) {
    const DEVICES: usize = 200;
    // No heartbeats: opening so many sessions takes longer than a session may usually be silent.
    let options = ServerOptions::default().env("KERNEX_HEARTBEAT_INTERVAL", "1h");
    let server = TestServer::start_with(database, options).await;
    let operator = server.operator();
    let token = operator
        .enrollment_token_for(kernex_proto::v1::CreateEnrollmentTokenRequest {
            uses: DEVICES as u32,
            ..Default::default()
        })
        .await;
    // Larger than the windows of a connection, so that no download ends before the halt.
    let archive = bundle::noisy("app", "1.0", 8, "true").await;
    let archive = operator.push(&archive).await;
    let mut sessions = Vec::new();
    for (index, key) in keys::derived(DEVICES).into_iter().enumerate() {
        let mut device = RawIdentity::enrol_with(&server, &token, key, &format!("edge-{index:03}"))
            .await
            .unwrap();
        sessions.push(device.connect(&server).await);
    }
    let id = operator
        .deploy_for(kernex_proto::v1::CreateDeploymentRequest {
            bundle: archive.digest.clone(),
            selector: "*".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let (ready, mut downloading) = tokio::sync::mpsc::channel(DEVICES);
    let mut agents = JoinSet::new();
    for mut session in sessions {
        let (ready, digest) = (ready.clone(), archive.digest.clone());
        agents.spawn(async move {
            let (command, _) = session.deploy_command().await;
            session.accept(&command, 1).await;
            let mut download = session.begin_download(&digest).await.unwrap();
            assert!(download.message().await.unwrap().is_some());
            ready.send(()).await.unwrap();
            stop(&mut session, &command).await;
            drop(download);
            session.outcome(&command, 2, cancelled()).await;
        });
    }
    drop(ready);
    for _ in 0..DEVICES {
        downloading.recv().await.expect("each agent downloads");
    }
    let ordered = Instant::now();
    let mut stream = halt(&operator, &id).await.unwrap();
    let mut devices = BTreeMap::new();
    until(&mut stream, &mut devices, 0).await;
    eprintln!(
        "{DEVICES} downloads halted and acknowledged within {} ms",
        ordered.elapsed().as_millis()
    );
    assert_eq!(devices.len(), DEVICES);
    assert!(devices.values().all(|device| device.acknowledged));
    while let Some(agent) = agents.join_next().await {
        agent.unwrap();
    }
    assert_eq!(
        operator.finished(&id).await.counts.unwrap().cancelled,
        DEVICES as u32
    );
}
