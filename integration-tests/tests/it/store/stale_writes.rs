//! A write of a row that has changed since it was read. Writers of the store take turns, so the
//! other writer is a plain statement that takes no turn.

use kernex_integration_tests::{Database, wait::seen, wait_for};
use kernex_server::domain::attempt::State;
use sea_orm_migration::sea_orm::{
    self, ConnectionTrait as _, TransactionTrait as _,
    sea_query::{Expr, ExprTrait as _, Query},
};

use super::fixture::{Fixture, caller};

/// SQLite has one writer at a time, which reads what it changes after the one before has committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(kernex_postgres),
    ignore = "no PostgreSQL here: install it (Debian: apt install postgresql) or set KERNEX_TEST_POSTGRES_URL"
)]
async fn a_stale_write_of_an_attempt_is_refused_and_decided_again() {
    let fixture = Fixture::new(Database::Postgres).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    let accept = Query::update()
        .table("attempts")
        .value("state", "accepted")
        .value("revision", Expr::col("revision").add(1))
        .and_where(Expr::col("target_id").eq(attempt.target.0))
        .to_owned();
    let other = sea_orm::Database::connect(&fixture.url).await.unwrap();
    let uncommitted = other.begin().await.unwrap();
    uncommitted.execute(&accept).await.unwrap();
    // The cancel reads an attempt that nobody has accepted, and its write waits for the row.
    let (request, id) = (caller("CancelDeployment"), deployment.deployment.id);
    let cancel = fixture.operators.cancel_deployment(&request, id);
    let commit = async {
        wait_for("the cancel to wait for the row", || async {
            let waiting = "SELECT count(*) AS count FROM pg_stat_activity \
                           WHERE datname = current_database() AND wait_event = 'transactionid'";
            let row = other.query_one_raw(sea_orm::Statement::from_string(
                other.get_database_backend(),
                waiting,
            ));
            let count: i64 = row.await.unwrap().unwrap().try_get("", "count").unwrap();
            seen(count == 1, count)
        })
        .await;
        uncommitted.commit().await.unwrap();
    };
    let (cancelled, ()) = tokio::join!(cancel, commit);
    cancelled.unwrap();
    let (_, target) = fixture.target(&deployment, &device).await;
    assert!(
        target.state == State::Accepted && target.stop_requested,
        "the device is asked to stop what it accepted: {target:?}"
    );
}
