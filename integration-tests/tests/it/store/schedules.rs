//! Schedules: starts, windows, spreads and deadlines, with a clock that the test moves.

mod windows;

use std::{collections::BTreeSet, time::Duration};

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::v1::Disposition;
use kernex_server::{
    clock::Timestamp,
    domain::{
        attempt::State,
        rollout::{DeploymentResult, DeploymentState},
        schedule::{Schedule, Window},
    },
    store::{CreatedDeployment, NewDeployment, ReportEvent, StoreError, Terms},
};

use super::fixture::{Device, Fixture, HOUR, MINUTE, caller, succeeded};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A window that opens `after` from now and stays open for an hour; windows know whole minutes.
fn window(now: Timestamp, after: Duration) -> Window {
    let clock = |at: Timestamp| {
        let minutes = at.0.div_euclid(60_000_000).rem_euclid(24 * 60);
        format!("{:02}:{:02}", minutes / 60, minutes % 60)
    };
    let (from, to) = (now.plus(after), now.plus(after + HOUR));
    Window::parse(&format!("daily {}-{} UTC", clock(from), clock(to))).unwrap()
}

async fn deploy(
    fixture: &Fixture,
    schedule: Schedule,
    devices: &[&Device],
) -> Result<CreatedDeployment, StoreError> {
    let order = NewDeployment {
        terms: Terms {
            schedule,
            ..Terms::default()
        },
        delivery: DAY * 3,
        ..Fixture::order("app:1", devices)
    };
    fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), order)
        .await
}

both_databases![
    a_spread_gives_each_device_a_moment_of_its_own,
    commands_that_come_due_soon_are_returned_with_their_moment,
    a_scheduled_deployment_is_held_until_its_start,
    a_scheduled_deployment_can_be_cancelled_before_its_start,
    a_deadline_expires_waiting_targets_and_stops_running_ones,
    schedules_in_which_nothing_could_begin_are_refused,
];

async fn a_spread_gives_each_device_a_moment_of_its_own(database: Database) {
    let fixture = Fixture::new(database).await;
    fixture.bundle("app", "1").await;
    let mut devices = Vec::new();
    for n in 0..20 {
        devices.push(fixture.device(&format!("edge-{n}")).await);
    }
    let all: Vec<&Device> = devices.iter().collect();
    let schedule = Schedule {
        spread: HOUR,
        ..Schedule::default()
    };
    let start = fixture.store.now();
    let deployment = deploy(&fixture, schedule, &all).await.unwrap();
    let targets = fixture.targets(deployment.deployment.id).await;
    // A moment that has passed is not shown.
    let moments: BTreeSet<Timestamp> = targets
        .iter()
        .map(|target| target.opens_at.unwrap_or(start))
        .collect();
    assert_eq!(moments.len(), devices.len(), "{moments:?}");
    let sessions: Vec<_> = devices.iter().map(|device| (device.id, 1)).collect();
    let come_by = |now: Timestamp| moments.range(..=now).count();
    let mut due = 0;
    for _ in 0..30 {
        fixture.clock.advance(MINUTE * 2);
        let least = come_by(fixture.store.now());
        due = fixture.store.due_commands(&sessions).await.unwrap().len();
        let most = come_by(fixture.store.now());
        assert!(
            (least..=most).contains(&due),
            "{due} are due, and {least} to {most} moments have come: {moments:?}"
        );
    }
    assert_eq!(due, devices.len(), "everybody within the hour");
}

async fn commands_that_come_due_soon_are_returned_with_their_moment(database: Database) {
    let fixture = Fixture::new(database).await;
    fixture.bundle("app", "1").await;
    let device = fixture.device("edge-1").await;
    let schedule = Schedule {
        spread: HOUR,
        ..Schedule::default()
    };
    let deployment = deploy(&fixture, schedule, &[&device]).await.unwrap();
    let sessions = [(device.id, 1)];
    let target = fixture.targets(deployment.deployment.id).await.remove(0);
    let wait = target.opens_at.unwrap().since(fixture.store.now());
    let few = Duration::from_secs(3);
    fixture.clock.advance(wait.saturating_sub(few * 10));
    let due = fixture.store.due(&sessions).await.unwrap();
    assert!(due.commands.is_empty() && due.soon.is_empty(), "{due:?}");
    fixture.clock.advance(few * 9);
    let due = fixture.store.due(&sessions).await.unwrap();
    assert!(due.commands.is_empty(), "{due:?}");
    assert_eq!(due.soon.len(), 1, "{due:?}");
    assert!(due.soon[0].1 <= few, "{due:?}");
    fixture.clock.advance(few);
    let due = fixture.store.due(&sessions).await.unwrap();
    assert_eq!((due.commands.len(), due.soon.len()), (1, 0), "{due:?}");
}

async fn a_scheduled_deployment_is_held_until_its_start(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let start = fixture.store.now().plus(DAY * 5);
    let schedule = Schedule {
        start: Some(start),
        ..Schedule::default()
    };
    let deployment = deploy(&fixture, schedule, &[&device]).await.unwrap();
    assert_eq!(deployment.deployment.state, DeploymentState::Scheduled);
    assert_eq!(deployment.deployment.opens_at, Some(start));
    assert_eq!(fixture.state(&deployment, &device).await, State::Held);
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let advanced = fixture.store.advance_rollouts().await.unwrap();
    assert_eq!((advanced.applied, advanced.wake), (0, Some(start)));
    fixture
        .operators
        .pause_deployment(&caller("PauseDeployment"), deployment.deployment.id, "")
        .await
        .unwrap();
    let (resumed, _) = fixture
        .operators
        .resume_deployment(&caller("ResumeDeployment"), deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(resumed.state, DeploymentState::Scheduled, "it still waits");
    fixture.clock.advance(DAY * 4);
    assert_eq!(
        fixture.store.expire_due().await.unwrap(),
        0,
        "the time for delivery begins with the start"
    );
    fixture.clock.advance(DAY);
    let advanced = fixture.store.advance_rollouts().await.unwrap();
    assert_eq!(advanced.devices, [device.id]);
    assert_eq!(fixture.due(&device, epoch).await.len(), 1);
    let (attempt, _) = fixture.target(&deployment, &device).await;
    fixture.report(&device, attempt, succeeded("1", b"1")).await;
    fixture.store.advance_rollouts().await.unwrap();
    let done = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(done.result, Some(DeploymentResult::Succeeded));
    assert!(
        fixture
            .kinds_of_events()
            .await
            .contains(&"deployment.started".to_owned())
    );
}

async fn a_scheduled_deployment_can_be_cancelled_before_its_start(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let schedule = Schedule {
        start: Some(fixture.store.now().plus(DAY)),
        ..Schedule::default()
    };
    let deployment = deploy(&fixture, schedule, &[&device]).await.unwrap();
    let (cancelled, _) = fixture
        .operators
        .cancel_deployment(&caller("CancelDeployment"), deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (cancelled.state, cancelled.result),
        (DeploymentState::Finished, Some(DeploymentResult::Cancelled))
    );
    fixture.clock.advance(DAY * 2);
    fixture.store.advance_rollouts().await.unwrap();
    assert_eq!(fixture.state(&deployment, &device).await, State::Cancelled);
}

async fn a_deadline_expires_waiting_targets_and_stops_running_ones(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, two) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    let deadline = fixture.store.now().plus(MINUTE / 2);
    let schedule = Schedule {
        deadline: Some(deadline),
        ..Schedule::default()
    };
    let deployment = deploy(&fixture, schedule, &[&one, &two]).await.unwrap();
    let epoch = fixture.session(&one, 0, &[]).await.epoch;
    let (attempt, _) = fixture.target(&deployment, &one).await;
    fixture.report(&one, attempt, ReportEvent::Accepted).await;
    assert_eq!(fixture.store.expire_due().await.unwrap(), 0);
    fixture.clock.advance(MINUTE / 2);
    assert_eq!(fixture.store.expire_due().await.unwrap(), 2);
    assert_eq!(fixture.store.expire_due().await.unwrap(), 0);
    let done = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (done.counts.expired, done.result),
        (2, Some(DeploymentResult::Failed))
    );
    assert_eq!(
        fixture.due(&one, epoch).await,
        [("stop".to_owned(), attempt)]
    );
    assert_eq!(
        fixture.report(&one, attempt, succeeded("1", b"1")).await,
        Disposition::Late
    );
    let (_, target) = fixture.target(&deployment, &one).await;
    assert!(
        target.state == State::Expired && target.late.is_some(),
        "what it did is kept beside"
    );
}

async fn schedules_in_which_nothing_could_begin_are_refused(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let now = fixture.store.now();
    let past = Window::parse("2020-02-03 00:00-24:00 UTC").unwrap();
    let year = Window::parse("2199-02-03 00:00-24:00 UTC").unwrap();
    let table = [
        (
            "schedule.windows",
            Schedule {
                windows: vec![past],
                ..Schedule::default()
            },
        ),
        (
            "schedule.windows",
            Schedule {
                windows: vec![year],
                ..Schedule::default()
            },
        ),
        (
            "schedule.deadline",
            Schedule {
                deadline: Some(now),
                ..Schedule::default()
            },
        ),
        (
            "schedule.deadline",
            Schedule {
                windows: vec![window(now, HOUR * 2)],
                deadline: Some(now.plus(HOUR)),
                ..Schedule::default()
            },
        ),
        (
            "schedule.spread_seconds",
            Schedule {
                spread: DAY * 2,
                ..Schedule::default()
            },
        ),
    ];
    for (wanted, schedule) in table {
        let text = format!("{schedule:?}");
        match deploy(&fixture, schedule, &[&device]).await {
            Err(StoreError::Invalid { field, .. }) => assert_eq!(field, wanted, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    let dates = fixture
        .view
        .list_deployments(
            &kernex_server::store::DeploymentFilter::default(),
            kernex_server::store::Page::first(10),
        )
        .await
        .unwrap();
    assert!(dates.items.is_empty(), "nothing was written");
}
