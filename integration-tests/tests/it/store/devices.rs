//! Devices as operators see and change them.

use std::{cell::Cell, collections::BTreeSet};

use kernex_integration_tests::{Database, both_databases};
use kernex_server::{
    domain::{
        attempt::State, device::away::AwayReason, rollout::DeploymentResult, selector::Selector,
    },
    store::{DeviceFilter, NewDeployment, Page, ReportEvent, SessionChange, StoreError},
};
use uuid::Uuid;

use super::{
    fixture::{Fixture, caller, repeated, reused},
    heartbeats::beat,
};

both_databases![
    labels_change_with_their_revision,
    lists_page_by_key_and_obey_the_selector,
    a_list_shows_a_device_as_it_was_at_one_moment,
    a_selector_in_sql_finds_every_device_that_matches,
    a_deleted_device_leaves_its_history_and_closes_its_attempts,
];

async fn labels_change_with_their_revision(database: Database) {
    let fixture = Fixture::new(database).await;
    fixture.device("edge-1").await;
    let update = async |caller, set: &[(&str, &str)], remove: &[&str], revision| {
        let set = set
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let remove = remove.iter().map(|key| (*key).to_owned()).collect();
        fixture
            .operators
            .update_labels(caller, "edge-1", set, remove, revision)
            .await
    };
    let request = repeated("UpdateDeviceLabels", Uuid::now_v7());
    let changed = update(&request, &[("env", "prod")], &["site"], 1)
        .await
        .unwrap();
    assert_eq!(
        (
            changed.labels.len(),
            changed.labels["env"].as_str(),
            changed.revision
        ),
        (1, "prod", 2)
    );
    assert_eq!(
        update(&request, &[("env", "prod")], &["site"], 1)
            .await
            .unwrap(),
        changed
    );
    let reused = reused(&request);
    assert!(matches!(
        update(&reused, &[("env", "dev")], &[], 1).await,
        Err(StoreError::RequestIdReused)
    ));
    let plain = caller("UpdateDeviceLabels");
    assert!(matches!(
        update(&plain, &[], &["env"], 1).await,
        Err(StoreError::Conflict { revision: 2, .. })
    ));
    for bad in ["kernex.io/name", "bad key", ""] {
        assert!(
            matches!(
                update(&plain, &[(bad, "x")], &[], 0).await,
                Err(StoreError::Invalid { .. })
            ),
            "{bad}"
        );
    }
}

async fn lists_page_by_key_and_obey_the_selector(database: Database) {
    let fixture = Fixture::new(database).await;
    for n in 0..5 {
        fixture.device(&format!("edge-{n}")).await;
    }
    let selector = Selector::parse("site=berlin,kernex.io/name notin (edge-2)").unwrap();
    let mut names = Vec::new();
    let mut page = Page::first(3);
    loop {
        let paged = fixture
            .view
            .list_devices(&selector.clone().into(), page.clone())
            .await
            .unwrap();
        assert!(paged.items.len() <= 3);
        names.extend(paged.items.into_iter().map(|device| device.name));
        let Some(next) = paged.next else { break };
        page.token = Some(next);
    }
    assert_eq!(names, ["edge-0", "edge-1", "edge-3", "edge-4"]);
    page.token = Some("nonsense".into());
    let error = fixture.view.list_devices(&selector.into(), page).await;
    assert!(matches!(
        error,
        Err(StoreError::Invalid {
            field: "page_token",
            ..
        })
    ));
}

async fn a_list_shows_a_device_as_it_was_at_one_moment(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let is_over = Cell::new(false);
    let comes_and_goes = async {
        for epoch in 0..200 {
            let opening = Box::new(fixture.opening(&device, epoch, &[]));
            let comes = [
                SessionChange::Open(opening),
                SessionChange::Confirm(device.id, epoch + 1),
            ];
            for done in fixture.store.change_sessions(&comes).await.unwrap() {
                done.unwrap();
            }
            fixture.close(device.id, epoch + 1).await.unwrap();
        }
        is_over.set(true);
    };
    let is_listed = async {
        let every = DeviceFilter::default();
        let ids = BTreeSet::from([device.id]);
        let mut times = 0;
        while !is_over.get() {
            let page = fixture.view.list_devices(&every, Page::first(10)).await;
            let among = fixture.view.devices_among(&every, &ids).await;
            for shown in page.unwrap().items.into_iter().chain(among.unwrap()) {
                // The reason of its last session's end, never that of a server that died.
                let reason = shown.away.map(|away| away.reason);
                assert!(
                    matches!(
                        reason,
                        None | Some(AwayReason::NeverConnected | AwayReason::Closed)
                    ),
                    "{reason:?}"
                );
                times += 1;
            }
        }
        assert!(times > 20, "{times}: it was listed meanwhile");
    };
    tokio::join!(comes_and_goes, is_listed);
}

async fn a_selector_in_sql_finds_every_device_that_matches(database: Database) {
    let fixture = Fixture::new(database).await;
    for (n, env) in ["prod", "dev", "prod", ""].into_iter().enumerate() {
        let name = format!("edge-{n}");
        fixture.device(&name).await;
        let set = [("env".to_owned(), env.to_owned())].into();
        fixture
            .operators
            .update_labels(&caller("UpdateDeviceLabels"), &name, set, Vec::new(), 0)
            .await
            .unwrap();
    }
    fixture.bundle("app", "1").await;
    let many: Vec<String> = (1..3_000).map(|n| format!("edge-{n}")).collect();
    let many = format!("kernex.io/name in ({})", many.join(","));
    let table: [(&str, &[&str]); 13] = [
        ("kernex.io/name=edge-1", &["edge-1"]),
        (
            "kernex.io/name in (edge-3,nobody,edge-0)",
            &["edge-0", "edge-3"],
        ),
        ("kernex.io/name=nobody", &[]),
        ("kernex.io/name=edge-1\0", &[]),
        (&many, &["edge-1", "edge-2", "edge-3"]),
        (
            "kernex.io/os=linux,kernex.io/arch=x86_64",
            &["edge-0", "edge-1", "edge-2", "edge-3"],
        ),
        ("kernex.io/os=plan9", &[]),
        ("kernex.io/agent-version=", &[]),
        ("env=prod", &["edge-0", "edge-2"]),
        ("env=", &["edge-3"]),
        ("env in (dev, ),site=berlin", &["edge-1", "edge-3"]),
        ("env=prod,env=dev", &[]),
        ("env=prod,kernex.io/name!=edge-0,!gpu", &["edge-2"]),
    ];
    for (text, meant) in table {
        let selector = Selector::parse(text).unwrap();
        let listed = fixture
            .view
            .list_devices(&selector.clone().into(), Page::first(100))
            .await
            .unwrap();
        let names: Vec<String> = listed.items.into_iter().map(|device| device.name).collect();
        assert_eq!(names, meant, "{text}");
        let order = Fixture::order("app:1", &[]);
        let order = NewDeployment {
            selector: Some(selector),
            ..order
        };
        match fixture
            .operators
            .create_deployment(&caller("CreateDeployment"), order)
            .await
        {
            Ok(created) => assert_eq!(created.devices.len(), meant.len(), "{text}"),
            Err(StoreError::NoTargets) => assert!(meant.is_empty(), "{text}"),
            Err(error) => panic!("{text}: {error}"),
        }
    }
}

async fn a_deleted_device_leaves_its_history_and_closes_its_attempts(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let opened = fixture.session(&device, 0, &[]).await;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    fixture
        .report(&device, attempt, ReportEvent::Accepted)
        .await;
    fixture
        .store
        .record_heartbeats(&[beat(device.id, opened.epoch, 1.0)])
        .await
        .unwrap();
    let request = repeated("DeleteDevice", Uuid::now_v7());
    for _ in 0..2 {
        assert_eq!(
            fixture
                .operators
                .delete_device(&request, "edge-1", &[])
                .await
                .unwrap()
                .device,
            device.id
        );
    }
    assert!(matches!(
        fixture.view.get_device("edge-1").await,
        Err(StoreError::NotFound { .. })
    ));
    assert!(
        fixture
            .store
            .device_keys(&[device.id])
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        fixture
            .open(fixture.opening(&device, 1, &[]))
            .await
            .is_err()
    );
    assert_eq!(fixture.state(&deployment, &device).await, State::Cancelled);
    let done = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(done.result, Some(DeploymentResult::Cancelled));
    fixture.close(device.id, opened.epoch).await.unwrap();
    fixture.device("edge-1").await;
}
