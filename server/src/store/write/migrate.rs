//! Brings the schema up to date.

use kernex_migrations::Migrator;
use kernex_proto::ids::ClusterId;
use sea_orm::EntityTrait;
use sea_orm_migration::MigratorTrait as _;

use crate::store::{
    db::{
        error::{Result, StoreError},
        raw,
        sizes::insert_all,
        store::Store,
    },
    entity::{cluster, stored::Stored},
};

impl Store {
    /// Brings the schema up to date, and gives a new installation its id. Replicas that start
    /// together wait for each other.
    pub async fn migrate(&self) -> Result<()> {
        self.migrate_schema().await?;
        self.cluster_id().await?;
        Ok(())
    }

    /// Brings the schema up to date, and writes no row.
    pub async fn migrate_schema(&self) -> Result<()> {
        let lock = raw::lock_migrations(self.writer()).await?;
        let outcome = self.migrate_alone().await;
        if let Some(lock) = lock {
            // Closing the connection releases the lock, whatever happened before.
            let _ = sqlx::Connection::close(lock).await;
        }
        outcome
    }

    async fn migrate_alone(&self) -> Result<()> {
        let applied = Migrator::get_migration_models(self.writer()).await?;
        let known = Migrator::migrations();
        let newer = applied
            .into_iter()
            .map(|row| row.version)
            .filter(|version| known.iter().all(|migration| migration.name() != version))
            .max();
        if let Some(newest) = newer {
            return Err(StoreError::NewerSchema(newest));
        }
        Ok(Migrator::up(self.writer(), None).await?)
    }

    /// The id of this installation, made on first use.
    pub async fn cluster_id(&self) -> Result<ClusterId> {
        if let Some(row) = cluster::Entity::find().one(self.reader()).await? {
            return Ok(row.cluster_id.0);
        }
        self.write(|tx| async move {
            if let Some(row) = cluster::Entity::find().one(&tx.db).await? {
                return Ok(row.cluster_id.0);
            }
            let id = ClusterId(tx.new_id());
            let row = cluster::Model {
                id: 1,
                cluster_id: Stored(id),
                event_cursor: 0,
                created_at: tx.now.0,
                revocations: 0,
            };
            insert_all::<cluster::Entity>(&tx.db, vec![row], None).await?;
            Ok(id)
        })
        .await
    }
}
