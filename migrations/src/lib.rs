//! The schema, one change per file, forwards and backwards, the same on SQLite and PostgreSQL.
//!
//! Conventions: ids are UUIDs, instants are BIGINT microseconds since the epoch, digests are
//! lower-case hex, enums are their names as text. Rows that are facts about the past (targets,
//! events, audit) name devices and bundles by value and without foreign keys, so that they outlive
//! them.
//!
//! Names are recorded in the database and never change. Changes that were made at the same time
//! took one number and a letter each, and some numbers were never used. So the order is not that of
//! the names but that of the list in [`Migrator`], and a new change goes to its end.

#![expect(
    elided_lifetimes_in_paths,
    reason = "async_trait matches the trait's methods only with the lifetime hidden"
)]

use sea_orm_migration::prelude::*;

mod m0001_cluster;
mod m0002_access;
mod m0003_devices;
mod m0004_sessions;
mod m0005_heartbeats;
mod m0006_bundles;
mod m0007_deployments;
mod m0008_reports;
mod m0009_events;
mod m0011_configurations;
mod m0012_runs;
mod m0013_rollouts;
mod m0015_rollbacks;
mod m0016_drifts;
mod m0017_schedules;
mod m0021_copies;
mod m0022_digests;
mod m0023_leftovers;
mod m0024_revocations;
mod m0026_recorded;
mod m0027_stops;
mod m0028_disk;
mod m0029_hello;
mod m0030_unknown;
mod m0031l_names;
mod m0031m_endings;
mod m0031w_audit;
mod m0032m_deferrals;
mod m0032w_away;
mod m0033m_unpacked;
mod m0033w_orders;
mod m0034w_outputs;

/// Applies and reverts the changes in order.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_cluster::Migration),
            Box::new(m0002_access::Migration),
            Box::new(m0003_devices::Migration),
            Box::new(m0004_sessions::Migration),
            Box::new(m0005_heartbeats::Migration),
            Box::new(m0006_bundles::Migration),
            Box::new(m0007_deployments::Migration),
            Box::new(m0008_reports::Migration),
            Box::new(m0009_events::Migration),
            Box::new(m0011_configurations::Migration),
            Box::new(m0012_runs::Migration),
            Box::new(m0013_rollouts::Migration),
            Box::new(m0015_rollbacks::Migration),
            Box::new(m0016_drifts::Migration),
            Box::new(m0017_schedules::Migration),
            Box::new(m0021_copies::Migration),
            Box::new(m0022_digests::Migration),
            Box::new(m0023_leftovers::Migration),
            Box::new(m0024_revocations::Migration),
            Box::new(m0026_recorded::Migration),
            Box::new(m0027_stops::Migration),
            Box::new(m0028_disk::Migration),
            Box::new(m0029_hello::Migration),
            Box::new(m0030_unknown::Migration),
            Box::new(m0031w_audit::Migration),
            Box::new(m0032w_away::Migration),
            Box::new(m0033w_orders::Migration),
            Box::new(m0034w_outputs::Migration),
            Box::new(m0031l_names::Migration),
            Box::new(m0031m_endings::Migration),
            Box::new(m0032m_deferrals::Migration),
            Box::new(m0033m_unpacked::Migration),
        ]
    }
}

/// The primary key of several columns.
fn key<const N: usize>(columns: [&'static str; N]) -> IndexCreateStatement {
    let mut index = Index::create();
    for column in columns {
        index.col(column);
    }
    index
}

/// An index named after its table and columns.
fn index<const N: usize>(table: &'static str, columns: [&'static str; N]) -> IndexCreateStatement {
    let mut index = Index::create();
    index
        .name(format!("ix_{table}_{}", columns.join("_")))
        .table(table);
    for column in columns {
        index.col(column);
    }
    index
}

/// Drops tables, newest first.
async fn drop_tables(manager: &SchemaManager<'_>, tables: &[&'static str]) -> Result<(), DbErr> {
    for table in tables {
        manager
            .drop_table(Table::drop().table(*table).to_owned())
            .await?;
    }
    Ok(())
}
