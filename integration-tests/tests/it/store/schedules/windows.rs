//! Windows: when attempts begin, also when the clock jumps.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{ids::AttemptId, v1::Disposition};
use kernex_server::{
    domain::{
        attempt::State,
        rollout::{Amount, DeploymentState, Phase, Rollout},
        schedule::Schedule,
    },
    store::{NewDeployment, ReportEvent},
};

use super::{DAY, deploy, window};
use crate::store::fixture::{Fixture, HOUR, MINUTE, caller, succeeded};

both_databases![
    attempts_begin_only_inside_their_window_and_may_end_outside,
    a_clock_that_jumps_opens_no_window_and_ends_no_soak,
];

async fn attempts_begin_only_inside_their_window_and_may_end_outside(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, two) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    let windows = vec![window(fixture.store.now(), HOUR * 2)];
    let schedule = Schedule {
        windows,
        ..Schedule::default()
    };
    let deployment = deploy(&fixture, schedule.clone(), &[&one, &two])
        .await
        .unwrap();
    let shown = &deployment.deployment;
    assert_eq!(
        (shown.state, shown.schedule.as_ref()),
        (DeploymentState::Active, Some(&schedule))
    );
    let opens = shown.opens_at.expect("it is closed now");
    assert!(
        opens.since(fixture.store.now()) > HOUR && opens.since(fixture.store.now()) <= HOUR * 2,
        "{opens:?}"
    );
    let (epoch_one, epoch_two) = (
        fixture.session(&one, 0, &[]).await.epoch,
        fixture.session(&two, 0, &[]).await.epoch,
    );
    assert!(
        fixture.due(&one, epoch_one).await.is_empty(),
        "the window is closed"
    );
    fixture.clock.advance(HOUR * 2);
    assert_eq!(fixture.due(&one, epoch_one).await.len(), 1);
    assert_eq!(
        fixture
            .view
            .get_deployment(shown.id)
            .await
            .unwrap()
            .opens_at,
        None
    );
    let (attempt, _) = fixture.target(&deployment, &one).await;
    assert_eq!(
        fixture.report(&one, attempt, ReportEvent::Accepted).await,
        Disposition::Applied
    );
    fixture.clock.advance(HOUR);
    assert!(
        fixture.due(&two, epoch_two).await.is_empty(),
        "it is closed again"
    );
    assert_eq!(
        fixture.store.expire_due().await.unwrap(),
        1,
        "the execution timeout goes on counting"
    );
    assert_eq!(
        fixture.due(&one, epoch_one + 1).await[0].0,
        "stop",
        "and stops pass at any time"
    );
    assert_eq!(fixture.state(&deployment, &two).await, State::Pending);
    fixture.clock.advance(DAY - HOUR);
    assert_eq!(fixture.due(&two, epoch_two).await.len(), 1, "the next day");
}

async fn a_clock_that_jumps_opens_no_window_and_ends_no_soak(database: Database) {
    const LONG: i64 = 2 * 3600 + 1800;
    let fixture = Fixture::new(database).await;
    let one = fixture.device("edge-1").await;
    let others = [
        fixture.device("edge-2").await,
        fixture.device("edge-3").await,
    ];
    let epoch = fixture.session(&one, 0, &[]).await.epoch;
    fixture.bundle("app", "1").await;
    fixture.bundle("other", "1").await;
    let windows = vec![window(fixture.store.now(), HOUR * 2)];
    deploy(
        &fixture,
        Schedule {
            windows,
            ..Schedule::default()
        },
        &[&one],
    )
    .await
    .unwrap();
    let canary = Phase {
        size: Amount::Count(1),
        soak: HOUR,
        ..Phase::REST
    };
    let rollout = Rollout {
        phases: vec![canary],
        ..Rollout::at_once()
    };
    let soaking = NewDeployment {
        rollout: Some(rollout.checked().unwrap()),
        delivery: DAY * 3,
        ..Fixture::order("other:1", &[&others[0], &others[1]])
    };
    let soaking = fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), soaking)
        .await
        .unwrap();
    let targets = fixture.targets(soaking.deployment.id).await;
    let first = targets
        .iter()
        .find(|target| target.state == State::Pending)
        .expect("the canary");
    let attempt = AttemptId {
        target: first.id,
        number: 1,
    };
    let canary = others
        .iter()
        .find(|device| device.id == first.device)
        .unwrap();
    fixture.report(canary, attempt, ReportEvent::Accepted).await;
    fixture.report(canary, attempt, succeeded("1", b"1")).await;

    fixture.clock.jump(LONG);
    assert_eq!(
        fixture.store.advance_rollouts().await.unwrap().applied,
        0,
        "nobody knows since when it would soak"
    );
    assert!(
        fixture.due(&one, epoch).await.is_empty(),
        "the window may not be open at all"
    );
    fixture.clock.jump(-LONG);
    assert_eq!(
        fixture.store.advance_rollouts().await.unwrap().applied,
        1,
        "now it soaks"
    );
    fixture.clock.jump(LONG);
    let advanced = fixture.store.advance_rollouts().await.unwrap();
    assert_eq!(
        (advanced.applied, advanced.wake),
        (0, None),
        "nobody knows whether it has"
    );
    fixture.clock.jump(-LONG);
    fixture.clock.advance(HOUR * 2 + MINUTE);
    let advanced = fixture.store.advance_rollouts().await.unwrap();
    assert_eq!(advanced.devices.len(), 1, "an hour has passed");
    assert_eq!(
        fixture.due(&one, epoch).await.len(),
        1,
        "and the window is open"
    );
}
