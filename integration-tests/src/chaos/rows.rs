//! Reads the database past the server. Every read has a connection of its own, so that nothing
//! keeps a disk busy.

use std::{collections::BTreeMap, path::PathBuf};

use sqlx::{
    AssertSqlSafe, ColumnIndex, Connection, Decode, PgConnection, Row, SqliteConnection, Type,
    sqlite::SqliteConnectOptions,
};

use super::checker::{AttemptRow, TargetRow};
use crate::TestServer;

/// The database of a server, read directly.
#[derive(Debug, Clone)]
pub enum RawDatabase {
    Sqlite(PathBuf),
    Postgres(String),
}

/// The rows that the rules need.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub targets: Vec<TargetRow>,
    pub attempts: Vec<AttemptRow>,
    /// Device name and id.
    pub devices: BTreeMap<String, String>,
    /// What devices are known to run: device id, then bundle name and digest.
    pub known: BTreeMap<String, BTreeMap<String, String>>,
    /// Reports kept aside.
    pub unknown_reports: usize,
}

/// A row, every column as text.
type Texts = Vec<Option<String>>;

impl RawDatabase {
    /// The rows of a server.
    #[must_use]
    pub fn of(server: &TestServer) -> Self {
        match server.database_url() {
            Some(url) => Self::Postgres(url.to_owned()),
            None => Self::Sqlite(server.data().join("kernex.db")),
        }
    }

    pub async fn attempts(&self) -> Result<Vec<AttemptRow>, sqlx::Error> {
        Ok(self
            .read(&[ATTEMPTS])
            .await?
            .remove(0)
            .into_iter()
            .filter_map(attempt)
            .collect())
    }

    /// All tables; expects that nothing changes meanwhile.
    pub async fn tables(&self) -> Result<Tables, sqlx::Error> {
        let queries = [
            "SELECT {id}, {deployment_id}, {device_id}, digest, [latest_attempt] FROM targets",
            ATTEMPTS,
            "SELECT name, {id} FROM devices",
            "SELECT {device_id}, name, digest FROM device_releases",
            "SELECT [number] FROM unknown_reports",
        ];
        let [targets, attempts, devices, known, unknown] = self
            .read(&queries)
            .await?
            .try_into()
            .map_err(|_| sqlx::Error::RowNotFound)?;
        let mut tables = Tables {
            targets: targets.into_iter().filter_map(target).collect(),
            attempts: attempts.into_iter().filter_map(attempt).collect(),
            unknown_reports: unknown.len(),
            ..Tables::default()
        };
        for mut row in devices {
            if let (Some(name), Some(id)) = (row[0].take(), row[1].take()) {
                tables.devices.insert(name, id);
            }
        }
        for mut row in known {
            if let (Some(id), Some(name), Some(digest)) =
                (row[0].take(), row[1].take(), row[2].take())
            {
                tables.known.entry(id).or_default().insert(name, digest);
            }
        }
        Ok(tables)
    }

    /// Runs queries where `{column}` is an id and `[column]` is cast to text.
    async fn read(&self, queries: &[&str]) -> Result<Vec<Vec<Texts>>, sqlx::Error> {
        let mut answers = Vec::new();
        match self {
            Self::Sqlite(path) => {
                let options = SqliteConnectOptions::new().filename(path).read_only(true);
                let mut connection = SqliteConnection::connect_with(&options).await?;
                for query in queries {
                    let sql = AssertSqlSafe(spell(query, "lower(hex(", "))"));
                    let rows = sqlx::query(sql).fetch_all(&mut connection).await?;
                    answers.push(texts(&rows)?);
                }
                connection.close().await?;
            }
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await?;
                for query in queries {
                    let sql = AssertSqlSafe(spell(query, "replace(CAST(", " AS TEXT), '-', '')"));
                    let rows = sqlx::query(sql).fetch_all(&mut connection).await?;
                    answers.push(texts(&rows)?);
                }
                connection.close().await?;
            }
        }
        Ok(answers)
    }
}

const ATTEMPTS: &str = "SELECT {target_id}, [number], state, reason, [unresolved], [answered], \
    [closed_at], late_state, \
     late_reason FROM attempts";

fn spell(query: &str, before: &str, after: &str) -> String {
    query
        .replace('{', before)
        .replace('}', after)
        .replace('[', "CAST(")
        .replace(']', " AS TEXT)")
}

/// Both kinds of rows, read alike.
fn texts<R: Row>(rows: &[R]) -> Result<Vec<Texts>, sqlx::Error>
where
    for<'r> Option<String>: Decode<'r, R::Database> + Type<R::Database>,
    usize: ColumnIndex<R>,
{
    let read = |row: &R| (0..row.len()).map(|column| row.try_get(column)).collect();
    rows.iter().map(read).collect()
}

fn target(mut row: Texts) -> Option<TargetRow> {
    Some(TargetRow {
        id: row[0].take()?,
        deployment: row[1].take()?,
        device: row[2].take()?,
        digest: row[3].take()?,
        latest_attempt: row[4].take()?.parse().ok()?,
    })
}

fn attempt(mut row: Texts) -> Option<AttemptRow> {
    // SQLite and PostgreSQL write booleans differently.
    let truth = |text: Option<String>| text.is_some_and(|text| text == "1" || text == "true");
    Some(AttemptRow {
        target: row[0].take()?,
        number: row[1].take()?.parse().ok()?,
        state: row[2].take()?,
        reason: row[3].take(),
        unresolved: truth(row[4].take()),
        answered: truth(row[5].take()),
        closed_at: row[6].take().and_then(|text| text.parse().ok()),
        late_state: row[7].take(),
        late_reason: row[8].take(),
    })
}
