//! A halt: what it stops, and what it says of each device.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::v1::{self};
use kernex_server::{
    domain::{
        attempt::{FailureReason, State},
        halt::HaltStanding,
    },
    store::ReportEvent,
};
use uuid::Uuid;

use super::fixture::{Fixture, MINUTE, caller, cancelled, failed, repeated, succeeded};

both_databases![
    a_halt_stops_going_back_only_after_the_operator_saw_it,
    a_halt_says_what_became_of_each_device,
];

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
    // Until the device is seen going back, neither the same order nor another one has anything to
    // end.
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
    // A push of the first stop that is written late hides nothing.
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
    // The attempt had ended before the stop arrived.
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
