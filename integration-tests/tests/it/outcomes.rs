//! Reports of a device, and what the server makes of them.

use kernex_integration_tests::{
    Database, RawIdentity, RawSession, TestServer, both_databases,
    operator::Operator,
    raw_agent::{failed, succeeded},
};
use kernex_proto::{
    ids::{AttemptId, TargetId},
    v1::{
        AttemptRef, AttemptState, Command, CreateDeploymentRequest, Deploy, DeploymentResult,
        Disposition, FailureReason, Outcome, Progress, Report, Step, device_session_request as up,
        report,
    },
};
use tonic::Code;

/// A device with an open session that got a deploy command.
struct Setup {
    server: TestServer,
    operator: Operator,
    device: RawIdentity,
    session: RawSession,
    deployment: String,
    command: Command,
    deploy: Deploy,
}

async fn setup(database: kernex_integration_tests::Database) -> Setup {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let deployment = operator.deploy(&bundle, &["edge-1"]).await;
    let (command, deploy) = session.deploy_command().await;
    Setup {
        server,
        operator,
        device,
        session,
        deployment,
        command,
        deploy,
    }
}

both_databases![
    a_successful_outcome_finishes_the_deployment,
    a_failed_outcome_finishes_the_deployment_with_its_detail,
    an_invalid_outcome_is_refused,
    the_same_outcome_twice_is_applied_once,
    an_outcome_after_the_deadline_is_kept_as_late,
    the_report_of_a_device_that_is_not_a_target_is_refused,
    downloads_end_with_the_attempt_and_with_the_session,
    a_report_of_an_unknown_attempt_is_acknowledged_and_kept_aside,
    an_accepted_attempt_missing_from_the_journal_is_closed,
    an_attempt_in_the_journal_stays_open_over_reconnects,
    a_command_that_was_not_accepted_is_pushed_again_in_the_next_session,
    an_unsupported_command_fails_its_attempt,
];

async fn a_successful_outcome_finishes_the_deployment(database: Database) {
    let mut setup = setup(database).await;
    assert_eq!(
        setup.session.accept(&setup.command, 1).await,
        Disposition::Applied
    );
    assert_eq!(
        setup.operator.target(&setup.deployment).await.state(),
        AttemptState::Accepted
    );
    setup
        .session
        .send(up::Message::Report(Report {
            attempt: setup.command.attempt.clone(),
            event: Some(report::Event::Progress(Progress {
                step: Step::Download.into(),
                bytes_done: 10,
                bytes_total: 20,
                stopped: false,
            })),
            ..Default::default()
        }))
        .await;
    let target = setup
        .operator
        .target_in(&setup.deployment, &[AttemptState::Running])
        .await;
    assert_eq!(target.progress.unwrap().step(), Step::Download);
    let outcome = succeeded(&setup.deploy);
    assert_eq!(
        setup.session.outcome(&setup.command, 2, outcome).await,
        Disposition::Applied
    );
    let deployment = setup.operator.finished(&setup.deployment).await;
    assert_eq!(deployment.result(), DeploymentResult::Succeeded);
    let device = setup.operator.device("edge-1").await;
    assert_eq!(device.releases[0].digest, setup.deploy.digest);
}

async fn a_failed_outcome_finishes_the_deployment_with_its_detail(database: Database) {
    let mut setup = setup(database).await;
    let outcome = Outcome {
        exit_code: Some(7),
        output_tail: "the last words\n".into(),
        ..failed(FailureReason::ScriptFailed, "deploy.script exited with 7")
    };
    // The `accepted` report may get lost: an outcome jumps forward from any open state.
    assert_eq!(
        setup.session.outcome(&setup.command, 1, outcome).await,
        Disposition::Applied
    );
    assert_eq!(
        setup.operator.finished(&setup.deployment).await.result(),
        DeploymentResult::Failed
    );
    let target = setup.operator.target(&setup.deployment).await;
    assert_eq!(
        (target.state(), target.reason()),
        (AttemptState::Failed, FailureReason::ScriptFailed)
    );
    assert_eq!(target.exit_code, Some(7));
    assert_eq!(target.message, "deploy.script exited with 7");
    assert_eq!(target.output_tail, "the last words\n");
    assert!(setup.operator.device("edge-1").await.releases.is_empty());
}

async fn an_invalid_outcome_is_refused(database: Database) {
    let mut setup = setup(database).await;
    setup.session.accept(&setup.command, 1).await;
    let before = setup.operator.target(&setup.deployment).await;
    let running = Outcome {
        state: AttemptState::Running.into(),
        ..Default::default()
    };
    let expired = Outcome {
        state: AttemptState::Expired.into(),
        ..Default::default()
    };
    let no_reason = Outcome {
        state: AttemptState::Failed.into(),
        ..Default::default()
    };
    let unknown = Outcome {
        state: 4711,
        ..Default::default()
    };
    for (seq, outcome) in (2..).zip([running, expired, no_reason, unknown, Outcome::default()]) {
        let disposition = setup
            .session
            .outcome(&setup.command, seq, outcome.clone())
            .await;
        assert_eq!(disposition, Disposition::Refused, "{outcome:?}");
    }
    assert_eq!(
        setup.operator.target(&setup.deployment).await,
        before,
        "nothing changed"
    );
    let outcome = succeeded(&setup.deploy);
    assert_eq!(
        setup.session.outcome(&setup.command, 9, outcome).await,
        Disposition::Applied
    );
}

async fn the_same_outcome_twice_is_applied_once(database: Database) {
    let mut setup = setup(database).await;
    let outcome = succeeded(&setup.deploy);
    setup.session.accept(&setup.command, 1).await;
    assert_eq!(
        setup
            .session
            .outcome(&setup.command, 2, outcome.clone())
            .await,
        Disposition::Applied
    );
    let after = setup.operator.target(&setup.deployment).await;
    let mut session = setup.device.connect(&setup.server).await;
    assert_eq!(
        session.outcome(&setup.command, 2, outcome).await,
        Disposition::Duplicate
    );
    assert_eq!(setup.operator.target(&setup.deployment).await, after);
}

async fn an_outcome_after_the_deadline_is_kept_as_late(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let id = operator
        .deploy_for(CreateDeploymentRequest {
            bundle: bundle.digest.clone(),
            device_names: vec!["edge-1".into()],
            execution_timeout_seconds: 1,
            ..Default::default()
        })
        .await
        .unwrap();
    let (command, deploy) = session.deploy_command().await;
    session.accept(&command, 1).await;
    operator.target_in(&id, &[AttemptState::Expired]).await;
    assert_eq!(
        session.outcome(&command, 2, succeeded(&deploy)).await,
        Disposition::Late
    );
    let target = operator.target(&id).await;
    assert_eq!(
        target.state(),
        AttemptState::Expired,
        "a closed attempt stays as it is"
    );
    assert!(target.late_outcome);
    let late = target.late.unwrap();
    assert_eq!(late.state(), AttemptState::Succeeded, "{late:?}");
    assert!(late.at.is_some(), "{late:?}");
    let device = operator.device("edge-1").await;
    assert_eq!(
        device.releases[0].digest, bundle.digest,
        "it is known to run all the same"
    );
    assert_eq!(
        session.outcome(&command, 2, succeeded(&deploy)).await,
        Disposition::Duplicate
    );
}

async fn the_report_of_a_device_that_is_not_a_target_is_refused(database: Database) {
    let setup = setup(database).await;
    let mut other = setup.server.raw_device("edge-2").await;
    let mut session = other.connect(&setup.server).await;
    let outcome = succeeded(&setup.deploy);
    assert_eq!(
        session.outcome(&setup.command, 1, outcome).await,
        Disposition::Refused
    );
    let target = setup.operator.target(&setup.deployment).await;
    assert!(
        matches!(target.state(), AttemptState::Pending | AttemptState::Sent),
        "{target:?}"
    );
    session.heartbeat(1).await;
    let refused = session.download(&setup.deploy.digest, 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let token = setup.session.welcome.session_token.clone();
    let borrowed = session
        .download_as(&token, &setup.deploy.digest, 0)
        .await
        .unwrap_err();
    assert_eq!(
        borrowed.code(),
        Code::Unauthenticated,
        "the token is another device's"
    );
    session.heartbeat(2).await;
    assert!(setup.operator.device("edge-2").await.releases.is_empty());
}

async fn downloads_end_with_the_attempt_and_with_the_session(database: Database) {
    let mut setup = setup(database).await;
    setup
        .session
        .download(&setup.deploy.digest, 0)
        .await
        .unwrap();
    let old_token = setup.session.welcome.session_token.clone();
    let mut session = setup.device.connect(&setup.server).await;
    let refused = session
        .download_as(&old_token, &setup.deploy.digest, 0)
        .await
        .unwrap_err();
    assert_eq!(
        refused.code(),
        Code::Unauthenticated,
        "the token died with its session"
    );
    session.download(&setup.deploy.digest, 0).await.unwrap();
    session
        .outcome(&setup.command, 1, succeeded(&setup.deploy))
        .await;
    let refused = session.download(&setup.deploy.digest, 0).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::PermissionDenied,
        "the attempt is closed"
    );
}

async fn a_report_of_an_unknown_attempt_is_acknowledged_and_kept_aside(database: Database) {
    let mut setup = setup(database).await;
    let stranger = AttemptId {
        target: TargetId::generate(),
        number: 1,
    };
    let stranger = Command {
        attempt: Some(stranger.into()),
        ..Default::default()
    };
    let outcome = succeeded(&setup.deploy);
    assert_eq!(
        setup.session.outcome(&stranger, 1, outcome.clone()).await,
        Disposition::Unknown
    );
    // The target exists, the attempt does not, as after a database was restored.
    let known = setup.command.attempt.clone().unwrap();
    let later = AttemptRef {
        attempt: 9,
        ..known
    };
    let later = Command {
        attempt: Some(later),
        ..Default::default()
    };
    assert_eq!(
        setup.session.outcome(&later, 2, outcome).await,
        Disposition::Unknown
    );
    setup.session.heartbeat(1).await;
}

async fn an_accepted_attempt_missing_from_the_journal_is_closed(database: Database) {
    let mut setup = setup(database).await;
    setup.session.accept(&setup.command, 1).await;
    drop(setup.session);
    // A new journal does not know the attempt: the disk was wiped.
    setup.device.journal = kernex_proto::ids::JournalId::generate();
    let mut session = setup.device.connect(&setup.server).await;
    session.heartbeat(1).await;
    setup.operator.finished(&setup.deployment).await;
    let target = setup.operator.target(&setup.deployment).await;
    assert_eq!(
        (target.state(), target.reason()),
        (AttemptState::Failed, FailureReason::JournalLost)
    );
}

async fn an_attempt_in_the_journal_stays_open_over_reconnects(database: Database) {
    let mut setup = setup(database).await;
    setup.session.accept(&setup.command, 1).await;
    drop(setup.session);
    let mut session = setup
        .device
        .connect_holding(&setup.server, &setup.command, AttemptState::Running)
        .await;
    session.heartbeat(1).await;
    let target = setup.operator.target(&setup.deployment).await;
    assert!(
        matches!(
            target.state(),
            AttemptState::Accepted | AttemptState::Running
        ),
        "{target:?}"
    );
    let outcome = succeeded(&setup.deploy);
    assert_eq!(
        session.outcome(&setup.command, 2, outcome).await,
        Disposition::Applied
    );
}

async fn a_command_that_was_not_accepted_is_pushed_again_in_the_next_session(database: Database) {
    let mut setup = setup(database).await;
    drop(setup.session);
    let mut session = setup.device.connect(&setup.server).await;
    let (command, _) = session.deploy_command().await;
    assert_eq!(
        command.attempt, setup.command.attempt,
        "the same attempt, not a new one"
    );
    assert_eq!(command.epoch, session.welcome.epoch);
}

async fn an_unsupported_command_fails_its_attempt(database: Database) {
    let mut setup = setup(database).await;
    setup
        .session
        .send(up::Message::Unsupported(kernex_proto::v1::Unsupported {
            attempt: setup.command.attempt.clone(),
            detail: "deploy is not for me".into(),
        }))
        .await;
    setup.operator.finished(&setup.deployment).await;
    let target = setup.operator.target(&setup.deployment).await;
    assert_eq!(
        (target.state(), target.reason()),
        (AttemptState::Failed, FailureReason::Unsupported)
    );
    setup.session.heartbeat(1).await;
}
