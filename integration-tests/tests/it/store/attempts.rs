//! An attempt from its order to its outcome.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{
    ids::{AttemptId, TargetId},
    v1::{self, Disposition},
};
use kernex_server::{
    domain::{
        attempt::{FailureReason, State, Step, UNHEARD},
        rollout::{DeploymentResult, DeploymentState},
    },
    store::{IncomingReport, Page, ReportEvent},
};

use super::fixture::{Fixture, HOUR, MINUTE, cancelled, failed, succeeded};

both_databases![
    a_deployment_runs_from_order_to_result,
    invalid_reports_change_nothing,
    reports_of_one_batch_apply_in_order,
    a_deadline_closes_an_attempt_and_its_late_outcome_changes_no_state,
];

async fn a_deployment_runs_from_order_to_result(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, two) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    let deployment = fixture.deploy_to("app:1", "site=berlin").await;
    assert_eq!(deployment.devices.len(), 2);
    assert_eq!(deployment.deployment.counts.pending, 2);
    let read = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        deployment.deployment, read,
        "the answer is what anybody reads"
    );
    let epoch = fixture.session(&one, 0, &[]).await.epoch;
    let due = fixture
        .store
        .due_commands(&[(one.id, epoch)])
        .await
        .unwrap();
    let command = &due[0];
    assert_eq!((due.len(), command.traceparent.as_str()), (1, "00-trace"));
    assert!(command.remaining > HOUR && command.remaining <= HOUR + MINUTE);
    let kernex_server::store::DueKind::Deploy(deploy) = &command.kind else {
        panic!("a deploy is due")
    };
    assert_eq!(
        (
            deploy.size_bytes,
            deploy.execution_ms,
            deploy.signatures.len()
        ),
        (42, 60_000, 1)
    );
    let attempt = command.attempt;
    fixture.store.mark_sent(&[(attempt, epoch)]).await.unwrap();
    assert_eq!(fixture.state(&deployment, &one).await, State::Sent);
    assert!(fixture.due(&one, epoch).await.is_empty(), "once a session");
    assert_eq!(
        fixture.due(&one, epoch + 1).await.len(),
        1,
        "and again in the next"
    );
    fixture.clock.advance(UNHEARD);
    assert_eq!(
        fixture.due(&one, epoch).await.len(),
        1,
        "or when nobody has heard it"
    );

    assert_eq!(
        fixture.report(&one, attempt, ReportEvent::Accepted).await,
        Disposition::Applied
    );
    assert_eq!(
        fixture.report(&one, attempt, ReportEvent::Accepted).await,
        Disposition::Duplicate
    );
    assert!(fixture.due(&one, epoch + 1).await.is_empty());
    let progress = v1::Progress {
        step: v1::Step::Download.into(),
        bytes_done: 7,
        bytes_total: 42,
        stopped: false,
    };
    fixture
        .report(&one, attempt, ReportEvent::Progress(progress))
        .await;
    let (_, target) = fixture.target(&deployment, &one).await;
    assert_eq!(target.progress.unwrap().step, Step::Download);
    assert_eq!(
        fixture.report(&one, attempt, succeeded("1", b"1")).await,
        Disposition::Applied
    );
    assert_eq!(
        fixture.report(&one, attempt, succeeded("1", b"1")).await,
        Disposition::Duplicate
    );
    assert_eq!(
        fixture.report(&one, attempt, cancelled()).await,
        Disposition::Duplicate
    );

    let (other, _) = fixture.target(&deployment, &two).await;
    let open = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (open.state, open.counts.succeeded),
        (DeploymentState::Active, 1)
    );
    assert_eq!(
        fixture
            .report(&two, other, failed(v1::FailureReason::ScriptFailed))
            .await,
        Disposition::Applied
    );
    let done = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (done.state, done.result),
        (DeploymentState::Finished, Some(DeploymentResult::Failed))
    );
    let (_, target) = fixture.target(&deployment, &two).await;
    assert_eq!(
        (target.reason, target.message.as_str()),
        (Some(FailureReason::ScriptFailed), "it broke")
    );
    let history = fixture
        .view
        .list_history("edge-1", Page::first(10))
        .await
        .unwrap()
        .items;
    assert_eq!(
        (history[0].state, history[0].bundle.as_str()),
        (State::Succeeded, "app:1")
    );
    let release = fixture
        .view
        .get_device("edge-1")
        .await
        .unwrap()
        .releases
        .remove(0);
    assert_eq!(
        (release.name.as_str(), release.version.as_str()),
        ("app", "1")
    );
    let kinds = fixture.kinds_of_events().await;
    for kind in [
        "deployment.created",
        "attempt.accepted",
        "attempt.succeeded",
        "attempt.failed",
        "deployment.finished",
    ] {
        assert_eq!(
            kinds.iter().filter(|known| *known == kind).count(),
            1,
            "{kind}"
        );
    }
}

async fn invalid_reports_change_nothing(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, two) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    let deployment = fixture.deploy("app:1", &[&one]).await;
    let (attempt, _) = fixture.target(&deployment, &one).await;
    assert_eq!(
        fixture.report(&two, attempt, succeeded("1", b"1")).await,
        Disposition::Refused
    );
    let senseless = ReportEvent::Outcome(v1::Outcome {
        state: v1::AttemptState::Running.into(),
        ..Default::default()
    });
    assert_eq!(
        fixture.report(&one, attempt, senseless).await,
        Disposition::Refused
    );
    assert_eq!(fixture.state(&deployment, &one).await, State::Pending);
    let nowhere = AttemptId {
        target: TargetId::generate(),
        number: 1,
    };
    let wrong_number = AttemptId {
        number: 2,
        ..attempt
    };
    for unknown in [nowhere, wrong_number] {
        for event in [
            ReportEvent::Accepted,
            succeeded("1", b"1"),
            succeeded("1", b"1"),
        ] {
            assert_eq!(
                fixture.report(&one, unknown, event).await,
                Disposition::Unknown
            );
        }
    }
}

async fn reports_of_one_batch_apply_in_order(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    let report = |event| IncomingReport {
        device: device.id,
        epoch: 1,
        attempt,
        event,
        place: None,
    };
    let batch = [
        report(ReportEvent::Accepted),
        report(succeeded("1", b"1")),
        report(succeeded("1", b"1")),
    ];
    let dispositions = fixture.store.apply_reports(&batch).await.unwrap();
    assert_eq!(
        dispositions,
        [
            Disposition::Applied,
            Disposition::Applied,
            Disposition::Duplicate
        ]
        .map(Some)
    );
    assert_eq!(fixture.state(&deployment, &device).await, State::Succeeded);
}

async fn a_deadline_closes_an_attempt_and_its_late_outcome_changes_no_state(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, two) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    let epoch = fixture.session(&one, 0, &[]).await.epoch;
    let deployment = fixture.deploy("app:1", &[&one, &two]).await;
    let (attempt, _) = fixture.target(&deployment, &one).await;
    fixture.report(&one, attempt, ReportEvent::Accepted).await;
    assert_eq!(fixture.store.expire_due().await.unwrap(), 0);
    fixture.clock.advance(MINUTE * 2);
    assert_eq!(fixture.store.expire_due().await.unwrap(), 1, "execution");
    fixture.clock.advance(HOUR);
    assert_eq!(fixture.store.expire_due().await.unwrap(), 1, "delivery");
    let done = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (done.counts.expired, done.result),
        (2, Some(DeploymentResult::Failed))
    );
    let next = fixture.deploy("app:1", &[&one, &two]).await;
    assert_eq!(
        fixture.due(&one, epoch).await,
        [("stop".to_owned(), attempt)],
        "it may still run there"
    );
    assert_eq!(
        fixture.due(&two, 1).await.len(),
        1,
        "it never reached the other"
    );
    assert_eq!(
        fixture.report(&one, attempt, succeeded("1", b"1")).await,
        Disposition::Late
    );
    assert_eq!(
        fixture.report(&one, attempt, succeeded("1", b"1")).await,
        Disposition::Duplicate
    );
    let (_, target) = fixture.target(&deployment, &one).await;
    assert!(target.state == State::Expired && target.late.is_some() && !target.stop_requested);
    assert_eq!(
        fixture.due(&one, epoch).await[0].1,
        fixture.target(&next, &one).await.0
    );
}
