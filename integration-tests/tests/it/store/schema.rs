//! Migrations, and errors of the database.

use kernex_integration_tests::{Database, both_databases};
use kernex_migrations::Migrator;
use kernex_server::{
    clock::Clock,
    store::{Store, StoreError},
};
use sea_orm_migration::{
    MigratorTrait,
    sea_orm::{ActiveValue::Set, Database as Db, EntityTrait as _},
    seaql_migrations,
};

use super::fixture::Fixture;

both_databases![
    every_change_can_be_reverted_and_made_again,
    a_database_of_a_newer_version_is_refused_in_one_sentence,
    a_database_that_is_gone_is_unavailable,
];

async fn every_change_can_be_reverted_and_made_again(database: Database) {
    let fixture = Fixture::new(database).await;
    let cluster = fixture.store.cluster_id().await.unwrap();
    fixture.store.migrate().await.unwrap();
    assert_eq!(fixture.store.cluster_id().await.unwrap(), cluster);
    fixture.store.clone().close().await.unwrap();
    let db = Db::connect(&fixture.url).await.unwrap();
    Migrator::down(&db, None).await.unwrap();
    Migrator::up(&db, None).await.unwrap();
    db.close().await.unwrap();
}

async fn a_database_of_a_newer_version_is_refused_in_one_sentence(database: Database) {
    let fixture = Fixture::new(database).await;
    let applied = |version: &str| seaql_migrations::ActiveModel {
        version: Set(version.to_owned()),
        applied_at: Set(1),
    };
    let db = Db::connect(&fixture.url).await.unwrap();
    for version in ["m20990101_000001_x", "m20990102_000001_y"] {
        let row = applied(version);
        seaql_migrations::Entity::insert(row)
            .exec_without_returning(&db)
            .await
            .unwrap();
    }
    db.close().await.unwrap();
    for _ in 0..2 {
        let refused = fixture.store.migrate().await.unwrap_err();
        assert!(
            matches!(&refused, StoreError::NewerSchema(newest) if newest == "m20990102_000001_y"),
            "{refused:?}"
        );
        let said = refused.to_string();
        assert!(said.contains("newer kernex-server"), "{said}");
        assert!(said.contains("docs/upgrade.md"), "{said}");
    }
}

async fn a_database_that_is_gone_is_unavailable(database: Database) {
    let fixture = Fixture::new(database).await;
    fixture.store.ping().await.unwrap();
    fixture.store.clone().close().await.unwrap();
    assert!(matches!(
        fixture.store.ping().await,
        Err(StoreError::Unavailable(_))
    ));
    assert!(matches!(
        fixture.store.expire_due().await,
        Err(StoreError::Unavailable(_))
    ));
}

#[tokio::test]
async fn sqlite_keeps_commits_in_its_log_until_a_checkpoint() {
    let fixture = Fixture::new(Database::Sqlite).await;
    for n in 0..300 {
        fixture.device(&format!("edge-{n}")).await;
    }
    let path = fixture.url.trim_start_matches("sqlite://");
    let size = |suffix: &str| std::fs::metadata(format!("{path}{suffix}")).unwrap().len();
    let (file, log) = (size(""), size("-wal"));
    // Far more than the thousand pages at which SQLite would have moved them by itself.
    assert!(log > 2_000 * 4_096, "{log}");
    fixture.store.checkpoint().await.unwrap();
    assert!(size("") > file, "{} after {file}", size(""));
    // What comes now stands at the beginning of the log again.
    fixture.device("one-more").await;
    assert_eq!(size("-wal"), log);
}

#[tokio::test]
async fn other_databases_are_refused_by_name() {
    let error = Store::open("mysql://host/db", Clock::system())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("sqlite://"), "{error}");
}
