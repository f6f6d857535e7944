//! Bundles by name and digest, and what keeps them from being deleted.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{ids::Digest, v1};
use kernex_server::{
    domain::schedule::Schedule,
    store::{NewBundle, NewDeployment, Page, StoreError, Terms},
};
use uuid::Uuid;

use super::fixture::{Fixture, HOUR, caller, repeated, succeeded};

fn new(name: &str, version: &str, bytes: &[u8]) -> NewBundle {
    NewBundle {
        name: name.into(),
        version: version.into(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        format: v1::BundleFormat::TarZst,
        manifest_json: r#"{"version":"1"}"#.into(),
        unpacked_bytes: 1000,
        entries: 3,
        signatures: Vec::new(),
    }
}

both_databases![
    the_same_bytes_are_the_same_bundle_and_different_bytes_are_refused,
    a_bundle_in_use_cannot_be_deleted,
    a_bundle_of_held_targets_is_not_deleted_and_a_missing_one_is_named,
];

async fn the_same_bytes_are_the_same_bundle_and_different_bytes_are_refused(database: Database) {
    let fixture = Fixture::new(database).await;
    let insert = async |bundle| {
        fixture
            .operators
            .insert_bundle(&caller("UploadBundle"), bundle)
            .await
    };
    let (first, existed) = insert(new("app", "1", b"x")).await.unwrap();
    assert!(!existed);
    assert_eq!(
        insert(new("app", "1", b"x")).await.unwrap(),
        (first.clone(), true)
    );
    assert!(matches!(
        insert(new("app", "1", b"y")).await,
        Err(StoreError::AlreadyExists { .. })
    ));
    assert!(
        !insert(new("twin", "1", b"x")).await.unwrap().1,
        "the same bytes may have two names"
    );
    assert_eq!(fixture.view.get_bundle("app:1").await.unwrap(), first);
    assert_eq!(
        fixture
            .view
            .get_bundle(&first.digest.to_string())
            .await
            .unwrap(),
        first
    );
    assert!(matches!(
        fixture.view.get_bundle("app:2").await,
        Err(StoreError::NotFound { .. })
    ));
    let page = fixture
        .view
        .list_bundles(None, Page::first(1))
        .await
        .unwrap();
    assert_eq!(
        (page.items[0].name.as_str(), page.next.is_some()),
        ("twin", true)
    );
    let named = fixture
        .view
        .list_bundles(Some("app"), Page::first(10))
        .await
        .unwrap();
    assert_eq!(named.items, [first]);
}

async fn a_bundle_in_use_cannot_be_deleted(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let bundle = fixture.bundle("app", "1").await;
    fixture.bundle("app", "2").await;
    fixture.bundle("app", "3").await;
    let delete = async |reference| {
        fixture
            .operators
            .delete_bundle(&caller("DeleteBundle"), reference)
            .await
    };
    let deployment = fixture.deploy("app:1", &[&device]).await;
    assert!(
        matches!(delete("app:1").await, Err(StoreError::InUse { .. })),
        "an open target"
    );
    let (attempt, _) = fixture.target(&deployment, &device).await;
    fixture.report(&device, attempt, succeeded("1", b"1")).await;
    assert!(
        matches!(delete("app:1").await, Err(StoreError::InUse { .. })),
        "a device runs it"
    );
    let second = fixture.deploy("app:2", &[&device]).await;
    let (attempt, _) = fixture.target(&second, &device).await;
    fixture.report(&device, attempt, succeeded("2", b"2")).await;
    assert!(
        matches!(delete("app:1").await, Err(StoreError::InUse { .. })),
        "a device may go back to it"
    );
    let third = fixture.deploy("app:3", &[&device]).await;
    let (attempt, _) = fixture.target(&third, &device).await;
    fixture.report(&device, attempt, succeeded("3", b"3")).await;
    assert!(fixture.view.digest_in_use(bundle.digest).await.unwrap());
    let request = repeated("DeleteBundle", Uuid::now_v7());
    for _ in 0..2 {
        let gone = fixture
            .operators
            .delete_bundle(&request, "app:1")
            .await
            .unwrap();
        assert_eq!(gone.digest, bundle.digest);
    }
    assert!(!fixture.view.digest_in_use(bundle.digest).await.unwrap());
}

async fn a_bundle_of_held_targets_is_not_deleted_and_a_missing_one_is_named(database: Database) {
    let fixture = Fixture::new(database).await;
    fixture.bundle("app", "1").await;
    let device = fixture.device("edge-1").await;
    let start = Some(fixture.store.now().plus(HOUR));
    let terms = Terms {
        schedule: Schedule {
            start,
            ..Schedule::default()
        },
        ..Terms::default()
    };
    let order = NewDeployment {
        terms,
        ..Fixture::order("app:1", &[&device])
    };
    let deployment = fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), order)
        .await
        .unwrap();
    let deleted = fixture
        .operators
        .delete_bundle(&caller("DeleteBundle"), "app:1")
        .await;
    assert!(
        matches!(deleted, Err(StoreError::InUse { .. })),
        "held targets need it too: {deleted:?}"
    );
    fixture
        .operators
        .cancel_deployment(&caller("CancelDeployment"), deployment.deployment.id)
        .await
        .unwrap();
    fixture
        .operators
        .delete_bundle(&caller("DeleteBundle"), "app:1")
        .await
        .unwrap();
    let gone = fixture
        .operators
        .create_deployment(
            &caller("CreateDeployment"),
            Fixture::order("app:1", &[&device]),
        )
        .await;
    assert!(
        matches!(gone, Err(StoreError::NotFound { kind: "bundle", .. })),
        "{gone:?}"
    );
    let retried = fixture
        .operators
        .retry_deployment(&caller("RetryDeployment"), deployment.deployment.id, &[])
        .await;
    assert!(
        matches!(retried, Err(StoreError::WrongState { .. })),
        "{retried:?}"
    );
}
