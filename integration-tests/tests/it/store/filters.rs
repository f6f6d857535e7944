//! What lists leave out and what the summary counts, the same on both databases.

use std::time::Duration;

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{ids::Digest, v1};
use kernex_server::{
    domain::{
        attempt::{FailureReason, State},
        bundle_reference::BundleReference,
        device::DeviceStatus,
        pattern::Pattern,
        rollout::{DeploymentResult, DeploymentState},
        selector::Selector,
    },
    store::{
        DeploymentFilter, DeviceFilter, HeartbeatRow, IdPrefix, Page, StoreError, TargetFilter,
    },
};

use super::fixture::{Device, Fixture, HOUR, MINUTE, failed, succeeded};

both_databases![
    devices_are_found_by_status_version_bundle_drift_age_and_name,
    targets_are_found_by_state_reason_and_device,
    deployments_are_found_by_state_bundle_maker_age_and_id,
    the_summary_counts_the_fleet_and_names_what_is_open_and_what_failed,
    a_bundle_is_found_by_its_name_and_by_the_first_digits_of_its_digest,
];

/// Four devices: `edge-1` runs app:2 and is online, `edge-2` drifted from app:1 to app:2,
/// `Edge-3` failed app:2 and its session ended, `x_4` was never here.
struct Fleet {
    fixture: Fixture,
    devices: Vec<Device>,
}

impl Fleet {
    async fn new(database: Database) -> Self {
        let fixture = Fixture::new(database).await;
        let mut devices = Vec::new();
        for name in ["edge-1", "edge-2", "Edge-3", "x_4"] {
            devices.push(fixture.device(name).await);
        }
        fixture.bundle("app", "1").await;
        fixture.bundle("app", "2").await;
        let [first, second, third, _] = &devices[..] else {
            unreachable!("there are four");
        };
        for (device, version, event) in [
            (first, "app:2", succeeded("2", b"2")),
            (second, "app:1", succeeded("1", b"1")),
            (third, "app:2", failed(v1::FailureReason::DiskFull)),
        ] {
            let session = fixture.session(device, 0, &[]).await;
            assert_eq!(session.epoch, 1, "the first one");
            let deployment = fixture.deploy(version, &[device]).await;
            let (attempt, _) = fixture.target(&deployment, device).await;
            fixture.report(device, attempt, event).await;
        }
        fixture.close(third.id, 1).await.unwrap();
        let release = v1::ActiveRelease {
            name: "app".into(),
            version: "2".into(),
            digest: Digest::of(b"2").to_string(),
            ..Default::default()
        };
        let beat = HeartbeatRow {
            device: second.id,
            epoch: 1,
            vital_signs: v1::VitalSigns::default(),
            releases: Some(vec![release]),
            leftovers: None,
        };
        fixture.clock.advance(HOUR);
        fixture
            .store
            .record_heartbeats(&[beat.into()])
            .await
            .unwrap();
        Self { fixture, devices }
    }

    /// The names, page by page; the count has to agree.
    async fn found(&self, filter: DeviceFilter) -> Vec<String> {
        let mut names = Vec::new();
        let mut page = Page::first(1);
        loop {
            let paged = self
                .fixture
                .view
                .list_devices(&filter, page.clone())
                .await
                .unwrap();
            names.extend(paged.items.into_iter().map(|device| device.name));
            let Some(next) = paged.next else { break };
            page.token = Some(next);
        }
        let count = self.fixture.view.count_devices(&filter).await.unwrap();
        assert_eq!(count, names.len() as u64, "{filter:?}");
        names
    }
}

async fn devices_are_found_by_status_version_bundle_drift_age_and_name(database: Database) {
    let fleet = Fleet::new(database).await;
    let any = DeviceFilter::default;
    let status = |statuses: &[DeviceStatus]| DeviceFilter {
        statuses: statuses.to_vec(),
        ..any()
    };
    let runs = |text: &str| DeviceFilter {
        runs: Some(BundleReference::parse(text)),
        ..any()
    };
    let name = |text: &str| DeviceFilter {
        name: Some(Pattern::new(text)),
        ..any()
    };
    let seen_within = |within: Duration| DeviceFilter {
        seen_within: Some(within),
        ..any()
    };
    let unseen_for = |age: Duration| DeviceFilter {
        unseen_for: Some(age),
        ..any()
    };
    let drifted = |drifted: bool| DeviceFilter {
        drifted: Some(drifted),
        ..any()
    };
    let version = |versions: &[&str]| DeviceFilter {
        agent_versions: versions.iter().map(|&text| text.to_owned()).collect(),
        ..any()
    };
    let second = Digest::of(b"2").to_string();
    let both = DeviceFilter {
        selector: Selector::parse("site=berlin,kernex.io/name!=edge-1").unwrap(),
        ..status(&[DeviceStatus::Online])
    };
    let table: Vec<(DeviceFilter, &[&str])> = vec![
        (any(), &["edge-1", "edge-2", "Edge-3", "x_4"]),
        (status(&[DeviceStatus::Online]), &["edge-1", "edge-2"]),
        (status(&[DeviceStatus::Offline]), &["Edge-3", "x_4"]),
        (status(&[DeviceStatus::Conflicted]), &[]),
        (
            status(&[DeviceStatus::Offline, DeviceStatus::Online]),
            &["edge-1", "edge-2", "Edge-3", "x_4"],
        ),
        (version(&["1.0"]), &["edge-1", "edge-2", "Edge-3"]),
        (version(&["", "0.9"]), &["x_4"]),
        // The release that a device reports counts, not the one it should run.
        (runs("app:2"), &["edge-1", "edge-2"]),
        (runs("app:1"), &[]),
        (runs("app"), &["edge-1", "edge-2"]),
        (runs(&second), &["edge-1", "edge-2"]),
        (runs(&second[..12]), &["edge-1", "edge-2"]),
        (runs("ap"), &[]),
        (drifted(true), &["edge-2"]),
        (drifted(false), &["edge-1", "Edge-3", "x_4"]),
        (seen_within(MINUTE), &["edge-2"]),
        (seen_within(HOUR * 2), &["edge-1", "edge-2", "Edge-3"]),
        (unseen_for(MINUTE), &["edge-1", "Edge-3", "x_4"]),
        (unseen_for(HOUR * 2), &["x_4"]),
        (name("edge-*"), &["edge-1", "edge-2"]),
        (name("*-?"), &["edge-1", "edge-2", "Edge-3"]),
        (name("x_4"), &["x_4"]),
        (name("x%4"), &[]),
        (name("?_4"), &["x_4"]),
        (name("*_*"), &["x_4"]),
        (both, &["edge-2"]),
    ];
    for (filter, expected) in table {
        assert_eq!(fleet.found(filter.clone()).await, expected, "{filter:?}");
    }
    let ids = fleet.devices.iter().map(|device| device.id).collect();
    let online = status(&[DeviceStatus::Online]);
    let among = fleet.fixture.view.devices_among(&online, &ids).await;
    let names: Vec<_> = among.unwrap().into_iter().map(|d| d.name).collect();
    assert_eq!(names, ["edge-1", "edge-2"]);
}

async fn targets_are_found_by_state_reason_and_device(database: Database) {
    let fleet = Fleet::new(database).await;
    let (fixture, devices) = (&fleet.fixture, &fleet.devices);
    let deployment = fixture.deploy_to("app:2", "*").await;
    for (device, event) in [
        (&devices[0], succeeded("2", b"2")),
        (&devices[1], failed(v1::FailureReason::DiskFull)),
        (&devices[2], failed(v1::FailureReason::ScriptFailed)),
    ] {
        let (attempt, _) = fixture.target(&deployment, device).await;
        fixture.report(device, attempt, event).await;
    }
    let any = TargetFilter::default;
    let states = |states: &[State]| TargetFilter {
        states: states.to_vec(),
        ..any()
    };
    let name = |text: &str| TargetFilter {
        device_name: Some(Pattern::new(text)),
        ..any()
    };
    let table: Vec<(TargetFilter, &[&str])> = vec![
        (any(), &["Edge-3", "edge-1", "edge-2", "x_4"]),
        (states(&[State::Failed]), &["Edge-3", "edge-2"]),
        (
            states(&[State::Pending, State::Succeeded]),
            &["edge-1", "x_4"],
        ),
        (
            TargetFilter {
                reasons: vec![FailureReason::DiskFull],
                ..any()
            },
            &["edge-2"],
        ),
        (
            TargetFilter {
                phase: Some(1),
                ..any()
            },
            &[],
        ),
        (name("edge-*"), &["edge-1", "edge-2"]),
        (name("Edge-3"), &["Edge-3"]),
    ];
    for (filter, expected) in table {
        let id = deployment.deployment.id;
        let listed = fixture.view.list_targets(id, &filter, Page::first(100));
        let listed = listed.await.unwrap();
        let mut names: Vec<_> = listed.items.into_iter().map(|t| t.device_name).collect();
        names.sort();
        assert_eq!(names, expected, "{filter:?}");
        let count = fixture.view.count_targets(id, &filter).await.unwrap();
        assert_eq!(count, expected.len() as u64, "{filter:?}");
    }
}

async fn deployments_are_found_by_state_bundle_maker_age_and_id(database: Database) {
    let fleet = Fleet::new(database).await;
    let fixture = &fleet.fixture;
    fixture.clock.advance(HOUR);
    let newest = fixture.deploy_to("app:2", "*").await.deployment;
    let any = DeploymentFilter::default;
    let bundle = |text: &str| DeploymentFilter {
        bundle: Some(BundleReference::parse(text)),
        ..any()
    };
    let by = |text: &str| DeploymentFilter {
        created_by: Some(text.into()),
        ..any()
    };
    let results = |result| DeploymentFilter {
        results: vec![result],
        ..any()
    };
    let id = |text: &str| DeploymentFilter {
        id: Some(IdPrefix::parse(text).unwrap()),
        ..any()
    };
    let whole = newest.id.to_string();
    let table: Vec<(DeploymentFilter, usize)> = vec![
        (any(), 4),
        (
            DeploymentFilter {
                states: vec![DeploymentState::Active],
                ..any()
            },
            1,
        ),
        (results(DeploymentResult::Failed), 1),
        (
            DeploymentFilter {
                states: vec![DeploymentState::Active, DeploymentState::Paused],
                ..results(DeploymentResult::Failed)
            },
            2,
        ),
        (results(DeploymentResult::Succeeded), 2),
        (bundle("app"), 4),
        (bundle("app:1"), 1),
        (bundle(&Digest::of(b"2").to_string()[..12]), 3),
        (bundle("other"), 0),
        (by("ada"), 4),
        (by("eve"), 0),
        (
            DeploymentFilter {
                since: Some(fixture.clock.now().minus(MINUTE)),
                ..any()
            },
            1,
        ),
        (id(&whole), 1),
        (id(&whole[..13]), 1),
        (id("ffffffff"), 0),
    ];
    for (filter, expected) in table {
        let listed = fixture.view.list_deployments(&filter, Page::first(100));
        assert_eq!(listed.await.unwrap().items.len(), expected, "{filter:?}");
        let count = fixture.view.count_deployments(&filter).await.unwrap();
        assert_eq!(count, expected as u64, "{filter:?}");
    }
}

async fn the_summary_counts_the_fleet_and_names_what_is_open_and_what_failed(database: Database) {
    let fleet = Fleet::new(database).await;
    let fixture = &fleet.fixture;
    let open = fixture.deploy_to("app:1", "*").await.deployment;
    let summary = fixture.view.fleet_summary(10).await.unwrap();
    let counts = summary.devices;
    assert_eq!(
        (
            counts.total,
            counts.online,
            counts.offline,
            counts.conflicted
        ),
        (4, 2, 2, 0)
    );
    assert_eq!(
        (counts.drifted, counts.never_seen, counts.disk_faults),
        (1, 1, 0)
    );
    let versions: Vec<_> = summary
        .agent_versions
        .iter()
        .map(|count| (count.agent_version.as_str(), count.devices))
        .collect();
    assert_eq!(versions, [("1.0", 3), ("", 1)]);
    let releases: Vec<_> = summary
        .releases
        .iter()
        .map(|count| (count.version.as_str(), count.devices))
        .collect();
    assert_eq!(releases, [("2", 2)], "what drifted counts as it was seen");
    assert_eq!(summary.open_deployments.len(), 1);
    assert_eq!(summary.open_deployments[0].id, open.id);
    assert_eq!(summary.open_deployments[0].counts.pending, 4);
    let failed: Vec<_> = summary
        .failed_deployments
        .iter()
        .map(|deployment| deployment.counts.failed)
        .collect();
    assert_eq!(failed, [1]);
    // A second one, and a list of one says what it leaves out.
    fixture.deploy("app:2", &[&fleet.devices[3]]).await;
    let short = fixture.view.fleet_summary(1).await.unwrap();
    assert_eq!(
        (
            short.agent_versions.len(),
            short.agent_versions_left,
            short.open_deployments.len(),
            short.open_deployments_left,
            short.releases_left,
        ),
        (1, 1, 1, 1, 0)
    );
}

async fn a_bundle_is_found_by_its_name_and_by_the_first_digits_of_its_digest(database: Database) {
    let fixture = Fixture::new(database).await;
    for version in ["1", "2"] {
        fixture.bundle("app", version).await;
    }
    let first = Digest::of(b"1").to_string();
    let table = [
        ("app", "2"),
        ("app:1", "1"),
        (first.as_str(), "1"),
        (&first[..12], "1"),
    ];
    for (reference, version) in table {
        let found = fixture.view.get_bundle(reference).await.unwrap();
        assert_eq!(found.version, version, "{reference}");
    }
    for unknown in ["ap", "app:3", &first[..11], "ffffffffffff"] {
        let missing = fixture.view.get_bundle(unknown).await;
        assert!(
            matches!(missing, Err(StoreError::NotFound { .. })),
            "{unknown}"
        );
    }
}
