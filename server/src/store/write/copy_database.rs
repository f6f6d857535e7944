//! Copies all rows to another database, from SQLite to PostgreSQL or back.

use std::time::Duration;

use futures::TryStreamExt as _;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DatabaseTransaction, DbErr, EntityName, EntityTrait,
    IntoActiveModel, PaginatorTrait, QueryFilter,
};

use crate::store::{
    db::{
        error::{Result, StoreError},
        raw::no_time_limit,
        sizes::insert_all,
        store::Store,
    },
    entity::{
        attempt, audit, bundle, cluster, configuration, deployment, device, device_configuration,
        device_drift, device_key, device_label, device_release, enrollment_token, event, heartbeat,
        heartbeat_sample, journal, lease, operator_token, phase, request, run, schedule, session,
        signature, target, unknown_report,
    },
};

/// Rows that are in memory at a time.
const ROWS_AT_ONCE: usize = 1024;

/// Between two looks at whether a server still uses the database.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// What was copied of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedTable {
    pub name: &'static str,
    pub rows: u64,
}

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A server may still write to the source.
    #[error("a server still uses the database that is to be copied; stop it first")]
    InUse,
    /// The target has rows already, which would be mixed with the copied ones.
    #[error("the database to copy to is not empty: it has rows in `{0}`; give it an empty one")]
    NotEmpty(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Does the same with each table. A table comes after all those that it refers to.
macro_rules! each_table {
    ($do:ident) => {
        $do![
            cluster,
            lease,
            request,
            operator_token,
            enrollment_token,
            audit,
            event,
            device,
            device_key,
            device_label,
            journal,
            session,
            heartbeat,
            heartbeat_sample,
            bundle,
            signature,
            device_release,
            device_drift,
            deployment,
            phase,
            schedule,
            target,
            attempt,
            run,
            unknown_report,
            configuration,
            device_configuration,
        ]
    };
}

impl Store {
    /// Waits until no server uses this database. A server that was stopped or killed counts as
    /// using it until its lease ends. SQLite's file has one server only, and the data folder shows
    /// whether it runs.
    pub async fn wait_until_unused(&self, limit: Duration) -> Result<(), CopyError> {
        if self.is_alone() {
            return Ok(());
        }
        let unused = async {
            loop {
                let alive = self.write_beside(|tx| async move {
                    let alive = lease::Column::ExpiresAt.gt(tx.now.0);
                    let alive = lease::Entity::find().filter(alive).count(&tx.db).await?;
                    Ok(alive > 0)
                });
                if !alive.await? {
                    return Ok(());
                }
                tokio::time::sleep(CHECK_EVERY).await;
            }
        };
        tokio::time::timeout(limit, unused)
            .await
            .unwrap_or(Err(CopyError::InUse))
    }

    /// Copies all rows to another database, which has this version's schema and is empty. In the
    /// end all rows are there, or none.
    pub async fn copy_to(&self, target: &Self) -> Result<Vec<CopiedTable>, CopyError> {
        let copied = target.write(|tx| async move {
            if let Some(table) = first_with_rows(&tx.db).await? {
                return Ok(Err(CopyError::NotEmpty(table)));
            }
            no_time_limit(&tx.db).await?;
            // The schema came with this row, and no device knows it.
            cluster::Entity::delete_many().exec(&tx.db).await?;
            let source = self.snapshot().await?;
            // A large table takes its time.
            no_time_limit(&source).await?;
            let copied = copy_tables(&source, &tx.db).await?;
            source.rollback().await?;
            check_counts(&copied, &tx.db).await?;
            Ok(Ok(copied))
        });
        copied.await?
    }
}

/// A table with rows in it. The one row that comes with the schema does not count.
async fn first_with_rows(db: &DatabaseTransaction) -> Result<Option<&'static str>> {
    macro_rules! look {
        ($first:ident, $($table:ident),+ $(,)?) => {$(
            if $table::Entity::find().one(db).await?.is_some() {
                return Ok(Some($table::Entity.table_name()));
            }
        )+};
    }
    each_table!(look);
    Ok(None)
}

async fn copy_tables(
    source: &DatabaseTransaction,
    db: &DatabaseTransaction,
) -> Result<Vec<CopiedTable>> {
    let mut copied = Vec::new();
    macro_rules! copy {
        ($($table:ident),+ $(,)?) => {$(
            copied.push(Box::pin(copy_table::<$table::Entity>(source, db)).await?);
        )+};
    }
    each_table!(copy);
    Ok(copied)
}

async fn copy_table<E>(
    source: &DatabaseTransaction,
    db: &DatabaseTransaction,
) -> Result<CopiedTable>
where
    E: EntityTrait,
    E::Model: IntoActiveModel<E::ActiveModel> + Send,
    E::ActiveModel: ActiveModelTrait<Entity = E> + Send,
{
    let mut rows = 0;
    let stream = E::find().stream(source).await?;
    let mut pieces = std::pin::pin!(stream.try_chunks(ROWS_AT_ONCE));
    while let Some(piece) = pieces.try_next().await.map_err(|failed| failed.1)? {
        rows += piece.len() as u64;
        insert_all::<E>(db, piece, None).await?;
    }
    Ok(CopiedTable {
        name: E::default().table_name(),
        rows,
    })
}

/// An error when a row did not arrive. Then nothing of the copy stays.
async fn check_counts(copied: &[CopiedTable], db: &DatabaseTransaction) -> Result<()> {
    let mut copied = copied.iter();
    macro_rules! count {
        ($($table:ident),+ $(,)?) => {$(
            let there = $table::Entity::find().count(db).await?;
            if let Some(CopiedTable { name, rows }) = copied.next()
                && *rows != there
            {
                let what = format!("{rows} rows of `{name}` were read and {there} are written");
                return Err(DbErr::Custom(what).into());
            }
        )+};
    }
    each_table!(count);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sea_orm::{ConnectionTrait as _, DbBackend, Statement};

    use super::*;
    use crate::{clock::Clock, store::entity::stored::ReplicaId};

    async fn empty(folder: &tempfile::TempDir, name: &str) -> Store {
        let url = format!("sqlite://{}", folder.path().join(name).display());
        let store = Store::open(&url, Clock::system()).await.expect("opens");
        store.migrate_schema().await.expect("migrates");
        store
    }

    #[tokio::test]
    async fn every_table_of_the_schema_is_copied() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = empty(&folder, "source.db").await;
        let cluster = source.cluster_id().await.expect("it is made");
        let target = empty(&folder, "target.db").await;
        let copied = source.copy_to(&target).await.expect("it is copied");
        let copied: BTreeSet<String> = copied.iter().map(|table| table.name.to_owned()).collect();
        let tables = Statement::from_string(
            DbBackend::Sqlite,
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'seaql_%'",
        );
        let tables = source.reader().query_all_raw(tables).await.expect("asks");
        let tables: BTreeSet<String> = tables
            .iter()
            .map(|row| row.try_get("", "name").expect("a name"))
            .collect();
        assert_eq!(copied, tables);
        assert_eq!(target.cluster_id().await.expect("it is there"), cluster);
    }

    #[tokio::test]
    async fn a_database_with_rows_is_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let (source, target) = (empty(&folder, "a.db").await, empty(&folder, "b.db").await);
        source.cluster_id().await.expect("it is made");
        let cluster = target.cluster_id().await.expect("it is made");
        let lease = target.renew_lease(ReplicaId::generate(), CHECK_EVERY);
        lease.await.expect("it is written");
        let refused = source.copy_to(&target).await.expect_err("it is refused");
        assert!(
            matches!(refused, CopyError::NotEmpty("leases")),
            "{refused}"
        );
        assert_eq!(target.cluster_id().await.expect("it is there"), cluster);
    }
}
