//! Keys that were replaced, and devices that were deleted.

use kernex_integration_tests::{
    Ctl, Database, RawIdentity, TestServer,
    agent::bare_command,
    both_databases, bundle,
    raw_agent::succeeded,
    refusal::reason,
    wait::{seen, wait_for},
};
use kernex_proto::{
    error::Reason,
    v1::{AttemptState, DeleteDeviceRequest, Report, device_session_request as up, report},
};
use tonic::Code;

use super::{end, replace, session_end, soon};

both_databases![
    a_replaced_key_with_an_open_session_gets_nothing_and_is_not_recorded,
    only_the_holder_of_the_key_learns_that_its_device_was_deleted,
    a_deleted_device_stops_its_work_and_can_enrol_as_a_new_one,
    a_deletion_names_attempts_that_were_not_answered,
    a_download_of_a_replaced_key_ends,
];

async fn a_replaced_key_with_an_open_session_gets_nothing_and_is_not_recorded(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut old = server.raw_device("edge-1").await;
    let mut session = old.connect(&server).await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let before = operator.deploy(&bundle, &["edge-1"]).await;
    let (command, deploy) = session.deploy_command().await;
    session.accept(&command, 1).await;

    let mut new = replace(&server, "edge-1").await;
    let forged = Report {
        attempt: command.attempt.clone(),
        seq: 2,
        event: Some(report::Event::Outcome(succeeded(&deploy))),
        ..Default::default()
    };
    session.send(up::Message::Report(forged)).await;
    let other = operator.push_script("app", "2.0", "true").await;
    let after = operator.deploy(&other, &["edge-1"]).await;
    let (status, commanded) = soon("the old session", session_end(&mut session)).await;
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Unauthenticated, Some(Reason::KeyReplaced)),
        "{status}"
    );
    assert!(!commanded, "it was given something to do");
    let refused = old.try_connect(&server).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::KeyReplaced), "{refused}");
    assert!(
        refused.message().contains("edge-1") && refused.message().contains("new key"),
        "{refused}"
    );

    let mut session = new.connect(&server).await;
    let (command, deploy) = session.deploy_command().await;
    assert_eq!(deploy.version, "2.0");
    session.accept(&command, 1).await;
    session.outcome(&command, 2, succeeded(&deploy)).await;
    operator.finished(&after).await;
    let target = operator.target(&before).await;
    assert_eq!(
        target.state(),
        AttemptState::Failed,
        "not what the old key said: {target:?}"
    );
    let releases = operator.device("edge-1").await.releases;
    assert_eq!(releases.len(), 1);
    assert_eq!(
        (
            releases[0].version.as_str(),
            releases[0].previous_digest.as_str()
        ),
        ("2.0", "")
    );
}

async fn only_the_holder_of_the_key_learns_that_its_device_was_deleted(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut stranger = device.clone();
    stranger.key = server.raw_device("edge-2").await.key;
    let mut session = device.connect(&server).await;
    let request = DeleteDeviceRequest {
        device: "edge-1".into(),
        ..Default::default()
    };
    operator.devices().delete_device(request).await.unwrap();
    let (status, _) = soon("the session", session_end(&mut session)).await;
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Unauthenticated, Some(Reason::DeviceDeleted)),
        "{status}"
    );
    let told = device.try_connect(&server).await.unwrap_err();
    assert_eq!(
        (told.code(), reason(&told)),
        (Code::Unauthenticated, Some(Reason::DeviceDeleted)),
        "{told}"
    );
    assert!(told.message().contains("edge-1"), "{told}");
    let vague = stranger.try_connect(&server).await.unwrap_err();
    assert_eq!(
        (vague.code(), reason(&vague)),
        (Code::Unauthenticated, Some(Reason::Unauthenticated)),
        "{vague}"
    );

    let token = operator.enrollment_token(&[]).await;
    let again = RawIdentity::enrol_with(&server, &token, device.key.clone(), "edge-1")
        .await
        .unwrap_err();
    assert_eq!(
        reason(&again),
        Some(Reason::DeviceDeleted),
        "the key is the cause, whatever the token is: {again}"
    );
    let fresh = RawIdentity::enrol(&server, &token, server.new_key(), "edge-1")
        .await
        .unwrap();
    assert_ne!(fresh.device, device.device);
}

async fn a_deleted_device_stops_its_work_and_can_enrol_as_a_new_one(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let before = operator.device("edge-1").await.id;
    let (begun, ended) = (
        server.scratch().join("begun"),
        server.scratch().join("ended"),
    );
    let script = format!(
        "date > {}; sleep 30; date > {}",
        begun.display(),
        ended.display()
    );
    let bundle = operator.push_script("app", "1.0", &script).await;
    let deployment = operator.deploy(&bundle, &["edge-1"]).await;
    wait_for("the script to begin", || async {
        seen(begun.exists(), "not yet")
    })
    .await;

    let deleted = Ctl::on(&server).run(&["device", "delete", "edge-1", "--yes"]);
    assert_eq!(deleted.code, Some(0), "{}", deleted.stderr);
    assert!(
        deleted.stderr.contains("app:1.0: stopped, cancelled"),
        "{}",
        deleted.stderr
    );
    assert!(!ended.exists(), "the script went on");
    let target = operator.target(&deployment).await;
    assert_eq!(target.state(), AttemptState::Cancelled, "{target:?}");
    let told = || async {
        let log = agent.process().log();
        let told =
            log.contains("this device was deleted from the server") && log.contains("--new-key");
        seen(told, log.lines().last().unwrap_or_default().to_owned())
    };
    wait_for("the agent to say why", told).await;

    let token = operator.enrollment_token(&[]).await;
    let state = agent.state.clone();
    let enroll = |more: &[&str]| {
        let mut command = bare_command("enroll");
        command.args([
            "--server",
            &server.url(),
            "--token",
            &token,
            "--name",
            "edge-1",
        ]);
        let output = command
            .args(more)
            .arg("--state-dir")
            .arg(&state)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (enrolled, why) = enroll(&[]);
    assert!(
        !enrolled && why.contains("edge-1") && why.contains("deleted") && why.contains("--new-key"),
        "{why}"
    );
    assert!(!why.contains("refused the token"), "{why}");
    let (enrolled, why) = enroll(&["--new-key"]);
    assert!(!enrolled && why.contains("stop the agent first"), "{why}");
    agent.stop();
    let (enrolled, why) = enroll(&["--new-key"]);
    assert!(enrolled, "{why}");
    assert!(state.join(format!("journal.redb.of-{before}")).exists());
    agent.start_again();
    assert_ne!(operator.online("edge-1").await.id, before);
    assert!(!ended.exists());
}

async fn a_deletion_names_attempts_that_were_not_answered(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let bundle = operator.push_script("app", "1.0", "true").await;
    let mut deaf = server.raw_device("edge-1").await;
    let mut session = deaf.connect(&server).await;
    operator.deploy(&bundle, &["edge-1"]).await;
    let (command, _) = session.deploy_command().await;
    session.accept(&command, 1).await;
    let request = DeleteDeviceRequest {
        device: "edge-1".into(),
        request_id: "018f3c1f-6e00-7000-8000-000000000001".into(),
    };
    let answer = operator
        .devices()
        .delete_device(request.clone())
        .await
        .unwrap()
        .into_inner();
    let told: Vec<_> = answer
        .work
        .iter()
        .map(|work| (work.bundle.as_str(), work.answered))
        .collect();
    assert_eq!(told, [("app:1.0", false)]);
    let (status, commanded) = soon("the session", session_end(&mut session)).await;
    assert!(
        commanded && reason(&status) == Some(Reason::DeviceDeleted),
        "it was told to stop first: {status}"
    );
    let again = operator
        .devices()
        .delete_device(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, answer, "the same request has the same answer");

    let mut away = server.raw_device("edge-2").await;
    let mut session = away.connect(&server).await;
    operator.deploy(&bundle, &["edge-2"]).await;
    let (command, _) = session.deploy_command().await;
    session.accept(&command, 1).await;
    drop(session);
    operator.offline("edge-2").await;
    let deleted = Ctl::on(&server).run(&["device", "delete", "edge-2", "--yes"]);
    assert_eq!(deleted.code, Some(0), "{}", deleted.stderr);
    assert!(
        deleted
            .stderr
            .contains("app:1.0: the device did not answer; its script may still run"),
        "{}",
        deleted.stderr
    );
}

async fn a_download_of_a_replaced_key_ends(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let large = operator
        .push(&bundle::noisy("large", "1.0", 24, "true").await)
        .await;
    let mut old = server.raw_device("edge-1").await;
    let mut session = old.connect(&server).await;
    operator.deploy(&large, &["edge-1"]).await;
    let (_, deploy) = session.deploy_command().await;
    let download = session
        .begin_download(&deploy.digest)
        .await
        .expect("it may");
    replace(&server, "edge-1").await;
    let (status, read) = soon("the download", end(download)).await;
    let bytes: usize = read.iter().map(|piece| piece.chunk.len()).sum();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!((bytes as u64) < large.size_bytes, "all of it came: {bytes}");
}
