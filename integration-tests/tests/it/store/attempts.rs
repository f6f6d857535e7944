//! A deployment's attempts from order to outcome.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{
    ids::{AttemptId, TargetId},
    v1::{self, Disposition},
};
use kernex_server::{
    domain::{
        attempt::{FailureReason, State, Step, UNHEARD},
        halt::HaltStanding,
        rollout::{DeploymentResult, DeploymentState},
    },
    store::{DeploymentFilter, DueCommand, IncomingReport, Page, ReportEvent, StoreError},
};
use uuid::Uuid;

use super::fixture::{
    Fixture, HOUR, MINUTE, caller, cancelled, failed, repeated, reused, succeeded,
};

both_databases![
    creating_a_deployment_returns_the_commands_that_are_due,
    a_deployment_runs_from_order_to_result,
    invalid_reports_change_nothing,
    reports_of_one_batch_apply_in_order,
    a_device_gets_one_attempt_per_bundle_name_and_the_oldest_first,
    a_cancel_ends_what_waits_and_asks_what_runs_to_stop,
    an_attempt_pushed_but_never_received_is_cancelled_at_once,
    a_halt_stops_going_back_only_after_the_operator_saw_it,
    a_halt_says_what_became_of_each_device,
    a_cancel_knows_of_pushes_that_are_not_written_yet,
    a_push_that_crossed_a_cancel_is_called_back,
    a_deadline_closes_an_attempt_and_its_late_outcome_changes_no_state,
    the_same_request_gives_the_same_deployment,
];

async fn creating_a_deployment_returns_the_commands_that_are_due(database: Database) {
    let fixture = Fixture::new(database).await;
    let (free, busy) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    fixture.bundle("app", "2").await;
    let earlier = fixture.deploy("app:1", &[&busy]).await;
    let (attempt, _) = fixture.target(&earlier, &busy).await;
    fixture.report(&busy, attempt, ReportEvent::Accepted).await;
    let copied = fixture.device("edge-3").await;
    let epoch = fixture.session(&copied, 0, &[]).await.epoch;
    fixture.session(&copied, epoch, &[]).await;
    assert!(fixture.session(&copied, 0, &[]).await.conflicted);
    let order = fixture.deploy("app:2", &[&free, &busy, &copied]).await;
    let epochs = [&free, &busy, &copied].map(|device| (device.id, 9));
    let read = fixture.store.due_commands(&epochs).await.unwrap();
    let of_order = |due: &&DueCommand| due.device != busy.id;
    let read: Vec<_> = read.iter().filter(of_order).collect();
    assert_eq!((order.due.len(), read.len()), (1, 1), "{:?}", order.due);
    let (given, read) = (&order.due[0], read[0]);
    assert_eq!(given.device, free.id);
    assert_eq!(
        (given.attempt, given.run, &given.kind, &given.traceparent),
        (read.attempt, read.run, &read.kind, &read.traceparent)
    );
    assert!(given.remaining >= read.remaining && given.remaining <= HOUR + MINUTE);
    let phased = fixture.deploy("app:2", &[&busy]).await;
    assert!(phased.due.is_empty(), "it waits for the one before");
}

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

async fn a_device_gets_one_attempt_per_bundle_name_and_the_oldest_first(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    for (name, version) in [("app", "1"), ("app", "2"), ("db", "1")] {
        fixture.bundle(name, version).await;
    }
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let first = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&first, &device).await;
    fixture
        .report(&device, attempt, ReportEvent::Accepted)
        .await;
    let second = fixture.deploy("app:2", &[&device]).await;
    assert_eq!(
        fixture.state(&first, &device).await,
        State::Accepted,
        "what has begun is left to end"
    );
    fixture.deploy("db:1", &[&device]).await;
    let due: Vec<String> = fixture
        .due(&device, epoch)
        .await
        .into_iter()
        .map(|(what, _)| what)
        .collect();
    assert_eq!(
        due,
        ["deploy db:1"],
        "names are independent, app:2 waits for app:1"
    );
    fixture.report(&device, attempt, succeeded("1", b"1")).await;
    let due: Vec<String> = fixture
        .due(&device, epoch)
        .await
        .into_iter()
        .map(|(what, _)| what)
        .collect();
    assert_eq!(due, ["deploy app:2", "deploy db:1"]);
    let third = fixture.deploy("app:1", &[&device]).await;
    assert_eq!(fixture.state(&second, &device).await, State::Superseded);
    assert_eq!(fixture.state(&third, &device).await, State::Pending);
    let second = fixture
        .view
        .get_deployment(second.deployment.id)
        .await
        .unwrap();
    assert_eq!(second.result, Some(DeploymentResult::Superseded));
}

async fn a_cancel_ends_what_waits_and_asks_what_runs_to_stop(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, two) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    let deployment = fixture.deploy("app:1", &[&one, &two]).await;
    let (attempt, _) = fixture.target(&deployment, &one).await;
    let epoch = fixture.session(&one, 0, &[]).await.epoch;
    fixture.report(&one, attempt, ReportEvent::Accepted).await;
    let request = repeated("CancelDeployment", Uuid::now_v7());
    let (stopping, devices) = fixture
        .operators
        .cancel_deployment(&request, deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (stopping.state, devices.len()),
        (DeploymentState::Stopping, 2)
    );
    assert_eq!(fixture.state(&deployment, &two).await, State::Cancelled);
    assert!(fixture.target(&deployment, &one).await.1.stop_requested);
    assert_eq!(
        fixture.due(&one, epoch).await,
        [("stop".to_owned(), attempt)]
    );
    fixture
        .store
        .mark_stops_sent(&[(attempt, false, epoch)])
        .await
        .unwrap();
    assert!(fixture.due(&one, epoch).await.is_empty());
    assert_eq!(
        fixture.due(&one, epoch + 1).await.len(),
        1,
        "repeated each session until answered"
    );
    fixture.report(&one, attempt, cancelled()).await;
    assert!(fixture.due(&one, epoch + 1).await.is_empty());
    let (_, target) = fixture.target(&deployment, &one).await;
    assert!(target.state == State::Cancelled && !target.stop_requested);
    let (replayed, _) = fixture
        .operators
        .cancel_deployment(&request, deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(replayed.result, Some(DeploymentResult::Cancelled));
    let again = fixture
        .operators
        .cancel_deployment(&caller("CancelDeployment"), deployment.deployment.id)
        .await;
    assert!(matches!(again, Err(StoreError::Finished)));
}

async fn an_attempt_pushed_but_never_received_is_cancelled_at_once(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    for version in ["1", "2", "3"] {
        fixture.bundle("app", version).await;
    }
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let first = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&first, &device).await;
    fixture.store.mark_sent(&[(attempt, epoch)]).await.unwrap();
    let second = fixture.deploy("app:2", &[&device]).await;
    assert_eq!(
        fixture.state(&first, &device).await,
        State::Sent,
        "the device may have it"
    );
    // The list shows that it has not, and a newer one is there.
    let epoch = fixture.session(&device, epoch, &[]).await.epoch;
    assert_eq!(fixture.state(&first, &device).await, State::Superseded);
    assert_eq!(fixture.due(&device, epoch).await.len(), 1);
    // A push of the session before that is noted late has nothing to say any more.
    fixture
        .store
        .mark_sent(&[(attempt, epoch - 1)])
        .await
        .unwrap();
    let due = fixture.due(&device, epoch).await;
    assert_eq!(
        due.iter()
            .map(|(what, _)| what.as_str())
            .collect::<Vec<_>>(),
        ["deploy app:2"]
    );
    // Never taken, and known to be so before the newer order comes.
    let (attempt, _) = fixture.target(&second, &device).await;
    fixture.store.mark_sent(&[(attempt, epoch)]).await.unwrap();
    let epoch = fixture.session(&device, epoch, &[]).await.epoch;
    assert_eq!(
        fixture.state(&second, &device).await,
        State::Sent,
        "nothing newer came"
    );
    let third = fixture.deploy("app:3", &[&device]).await;
    assert_eq!(fixture.state(&second, &device).await, State::Superseded);
    // A stop that was asked for before the list came needs no answer.
    let (attempt, _) = fixture.target(&third, &device).await;
    fixture.store.mark_sent(&[(attempt, epoch)]).await.unwrap();
    let (stopping, _) = fixture
        .operators
        .cancel_deployment(&caller("CancelDeployment"), third.deployment.id)
        .await
        .unwrap();
    assert_eq!(stopping.state, DeploymentState::Stopping);
    let epoch = fixture.session(&device, epoch, &[]).await.epoch;
    let done = fixture
        .view
        .get_deployment(third.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (done.state, done.result),
        (DeploymentState::Finished, Some(DeploymentResult::Cancelled))
    );
    assert!(fixture.due(&device, epoch).await.is_empty());
}

async fn a_halt_stops_going_back_only_after_the_operator_saw_it(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let id = deployment.deployment.id;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let halted = || async { fixture.view.halted(id).await.unwrap().devices.remove(0) };
    let progress = |step: v1::Step, stopped| {
        ReportEvent::Progress(v1::Progress {
            step: step.into(),
            stopped,
            ..Default::default()
        })
    };
    fixture
        .report(&device, attempt, ReportEvent::Accepted)
        .await;
    fixture
        .report(&device, attempt, progress(v1::Step::Script, false))
        .await;
    let first = repeated("HaltDeployment", Uuid::now_v7());
    fixture.operators.halt_deployment(&first, id).await.unwrap();
    assert_eq!(
        fixture.due(&device, epoch).await,
        [("stop".to_owned(), attempt)]
    );
    fixture
        .store
        .mark_stops_sent(&[(attempt, false, epoch)])
        .await
        .unwrap();
    assert_eq!(halted().await.standing, HaltStanding::NotAnswered);

    fixture
        .report(&device, attempt, progress(v1::Step::Script, true))
        .await;
    assert_eq!(halted().await.standing, HaltStanding::GoingBack);
    let (_, target) = fixture.target(&deployment, &device).await;
    assert!(target.progress.unwrap().stopped && target.state == State::Running);
    // Neither the same order again nor another one has anything to end before the device is
    // seen going back.
    fixture.operators.halt_deployment(&first, id).await.unwrap();
    fixture
        .operators
        .halt_deployment(&caller("HaltDeployment"), id)
        .await
        .unwrap();
    assert!(fixture.due(&device, epoch).await.is_empty());
    assert!(halted().await.is_acknowledged());

    fixture
        .report(&device, attempt, progress(v1::Step::Rollback, true))
        .await;
    fixture.operators.halt_deployment(&first, id).await.unwrap();
    assert!(
        fixture.due(&device, epoch).await.is_empty(),
        "the same order again is no other order"
    );
    fixture
        .operators
        .halt_deployment(&caller("HaltDeployment"), id)
        .await
        .unwrap();
    assert_eq!(
        fixture.due(&device, epoch).await,
        [("stop going back".to_owned(), attempt)]
    );
    // A push of the stop before that is noted late and hides nothing.
    fixture
        .store
        .mark_stops_sent(&[(attempt, false, epoch)])
        .await
        .unwrap();
    assert_eq!(fixture.due(&device, epoch).await.len(), 1);
    fixture
        .store
        .mark_stops_sent(&[(attempt, true, epoch)])
        .await
        .unwrap();
    assert!(fixture.due(&device, epoch).await.is_empty());
    assert_eq!(halted().await.standing, HaltStanding::NotAnswered);
    fixture
        .report(&device, attempt, failed(v1::FailureReason::RollbackFailed))
        .await;
    let over = halted().await;
    assert_eq!(
        (over.standing, over.reason),
        (HaltStanding::Ended, Some(FailureReason::RollbackFailed))
    );
}

async fn a_halt_says_what_became_of_each_device(database: Database) {
    let fixture = Fixture::new(database).await;
    fixture.bundle("app", "1").await;
    let mut devices = Vec::new();
    for name in [
        "done",
        "going-back",
        "interrupted",
        "never",
        "silent",
        "stopped",
    ] {
        devices.push(fixture.device(name).await);
    }
    let all: Vec<_> = devices.iter().collect();
    let deployment = fixture.deploy("app:1", &all).await;
    let id = deployment.deployment.id;
    let mut attempts = Vec::new();
    for device in &devices {
        attempts.push(fixture.target(&deployment, device).await.0);
    }
    let [done, going_back, interrupted, _never, _silent, stopped] = &devices[..] else {
        panic!("six")
    };
    for index in [0, 1, 2, 4, 5] {
        fixture.session(&devices[index], 0, &[]).await;
        fixture
            .report(&devices[index], attempts[index], ReportEvent::Accepted)
            .await;
    }
    fixture
        .report(done, attempts[0], succeeded("1", b"1"))
        .await;
    fixture.clock.advance(MINUTE);
    fixture
        .operators
        .halt_deployment(&caller("HaltDeployment"), id)
        .await
        .unwrap();
    // It had ended before it could be told.
    fixture
        .report(
            interrupted,
            attempts[2],
            failed(v1::FailureReason::Interrupted),
        )
        .await;
    fixture.report(stopped, attempts[5], cancelled()).await;
    let progress = v1::Progress {
        step: v1::Step::Rollback.into(),
        stopped: true,
        ..Default::default()
    };
    fixture
        .report(going_back, attempts[1], ReportEvent::Progress(progress))
        .await;
    let halt = fixture.view.halted(id).await.unwrap();
    let stands = halt.devices.iter().map(|device| {
        (
            device.device_name.as_str(),
            device.standing,
            device.state,
            device.reason,
        )
    });
    assert_eq!(
        stands.collect::<Vec<_>>(),
        [
            ("going-back", HaltStanding::GoingBack, State::Running, None),
            (
                "interrupted",
                HaltStanding::Ended,
                State::Failed,
                Some(FailureReason::Interrupted)
            ),
            ("never", HaltStanding::NeverBegun, State::Cancelled, None),
            ("silent", HaltStanding::NotAnswered, State::Accepted, None),
            ("stopped", HaltStanding::Stopped, State::Cancelled, None),
        ]
    );
    assert_eq!(halt.done_before, 1);
}

async fn a_cancel_knows_of_pushes_that_are_not_written_yet(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, two) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    let epoch = fixture.session(&one, 0, &[]).await.epoch;
    let flight = fixture.store.in_flight();
    let deployment = fixture.deploy("app:1", &[&one, &two]).await;
    let (pushed, waiting) = (
        fixture.target(&deployment, &one).await.0,
        fixture.target(&deployment, &two).await.0,
    );
    let read = flight.moment();
    assert!(flight.record_push(one.id, pushed, epoch, read));
    fixture
        .operators
        .cancel_deployment(&caller("CancelDeployment"), deployment.deployment.id)
        .await
        .unwrap();
    let (_, target) = fixture.target(&deployment, &one).await;
    assert!(
        target.state == State::Sent && target.stop_requested,
        "its device may have it: {target:?}"
    );
    assert_eq!(fixture.state(&deployment, &two).await, State::Cancelled);
    // What was read before that is not pushed any more.
    assert!(!flight.record_push(two.id, waiting, 1, read));
    assert_eq!(
        flight
            .wait_for_refused()
            .await
            .into_iter()
            .collect::<Vec<_>>(),
        [two.id]
    );
    assert_eq!(
        fixture.due(&one, epoch).await,
        [("stop".to_owned(), pushed)]
    );
    // A pause holds back what was read before it as well.
    fixture.bundle("db", "1").await;
    let paused = fixture.deploy("db:1", &[&two]).await;
    let (waiting, _) = fixture.target(&paused, &two).await;
    let read = flight.moment();
    fixture
        .operators
        .pause_deployment(&caller("PauseDeployment"), paused.deployment.id, "")
        .await
        .unwrap();
    assert!(!flight.record_push(two.id, waiting, 1, read));
    assert!(flight.record_push(two.id, waiting, 1, flight.moment()));
    // What is left is written behind.
    fixture.store.note_pushes().await.unwrap();
    assert_eq!(fixture.state(&paused, &two).await, State::Sent);
}

async fn a_push_that_crossed_a_cancel_is_called_back(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (_, attempt) = fixture.due(&device, epoch).await.remove(0);
    fixture
        .operators
        .cancel_deployment(&caller("CancelDeployment"), deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(fixture.state(&deployment, &device).await, State::Cancelled);
    fixture.store.mark_sent(&[(attempt, epoch)]).await.unwrap();
    assert_eq!(
        fixture.due(&device, epoch).await,
        [("stop".to_owned(), attempt)]
    );
    fixture.deploy("app:1", &[&device]).await;
    assert_eq!(
        fixture.due(&device, epoch).await.len(),
        1,
        "its successor waits"
    );
    assert_eq!(
        fixture.report(&device, attempt, cancelled()).await,
        Disposition::Late
    );
    let (_, target) = fixture.target(&deployment, &device).await;
    assert!(target.state == State::Cancelled && target.late.is_none());
    assert_eq!(fixture.due(&device, epoch).await[0].0, "deploy app:1");
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

async fn the_same_request_gives_the_same_deployment(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    fixture.bundle("app", "2").await;
    let request = repeated("CreateDeployment", Uuid::now_v7());
    let first = fixture
        .operators
        .create_deployment(&request, Fixture::order("app:1", &[&device]))
        .await
        .unwrap();
    let again = fixture
        .operators
        .create_deployment(&request, Fixture::order("app:1", &[&device]))
        .await
        .unwrap();
    assert_eq!(
        (&first.deployment, &first.devices),
        (&again.deployment, &again.devices)
    );
    assert!(
        again.due.is_empty(),
        "what the first one gave has been pushed"
    );
    let other = fixture
        .operators
        .create_deployment(&reused(&request), Fixture::order("app:2", &[&device]))
        .await;
    assert!(matches!(other, Err(StoreError::RequestIdReused)));
    let empty = fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), Fixture::order("app:1", &[]))
        .await;
    assert!(matches!(empty, Err(StoreError::NoTargets)));
    let missing = fixture
        .operators
        .create_deployment(
            &caller("CreateDeployment"),
            Fixture::order("app:9", &[&device]),
        )
        .await;
    assert!(matches!(
        missing,
        Err(StoreError::NotFound { kind: "bundle", .. })
    ));
    assert_eq!(
        fixture
            .view
            .list_deployments(&DeploymentFilter::default(), Page::first(10))
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    assert_eq!(fixture.targets(first.deployment.id).await.len(), 1);
}
