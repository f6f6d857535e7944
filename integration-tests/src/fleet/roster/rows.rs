//! Copies rows of enrolled devices, whatever columns they have by now.

use kernex_proto::ids::DeviceId;
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection,
    sqlite::SqliteConnectOptions,
};

use super::{Identity, LABEL};
use crate::TestServer;

/// Devices in one transaction: the server writes in between.
const BATCH: usize = 1000;

/// One statement that copies a row under other values. Its parameters are those of `set`, then the
/// row's id.
struct Copy {
    table: &'static str,
    set: &'static [&'static str],
    of: &'static str,
}

const COPIES: [Copy; 2] = [
    Copy {
        table: "devices",
        set: &["id", "name"],
        of: "id",
    },
    Copy {
        table: "device_keys",
        set: &["digest", "device_id"],
        of: "device_id",
    },
];

impl Copy {
    fn sql(&self, columns: &[String], id: fn(usize) -> String) -> String {
        let others: Vec<&str> = columns
            .iter()
            .map(String::as_str)
            .filter(|column| !self.set.contains(column))
            .collect();
        let is_id = |column: &str| column == "id" || column == "device_id";
        let values = self.set.iter().enumerate().map(|(at, column)| {
            if is_id(column) {
                id(at + 1)
            } else {
                format!("${}", at + 1)
            }
        });
        let columns: Vec<&str> = self
            .set
            .iter()
            .copied()
            .chain(others.iter().copied())
            .collect();
        let values: Vec<String> = values
            .chain(others.iter().map(ToString::to_string))
            .collect();
        format!(
            "INSERT INTO {table} ({}) SELECT {} FROM {table} WHERE {} = {}",
            columns.join(", "),
            values.join(", "),
            self.of,
            id(self.set.len() + 1),
            table = self.table,
        )
    }

    fn values(&self, identity: &Identity) -> Vec<String> {
        let value = |column: &&str| match *column {
            "name" => identity.name.clone(),
            "digest" => identity.digest.to_string(),
            _ => plain(identity.device),
        };
        self.set.iter().map(value).collect()
    }
}

/// The label every copy gets; those it is a copy of stay without.
fn label(id: &str) -> String {
    let (key, value) = LABEL;
    format!("INSERT INTO device_labels (device_id, key, value) VALUES ({id}, '{key}', '{value}')")
}

/// An id as both databases read it from text.
fn plain(device: DeviceId) -> String {
    device.0.simple().to_string()
}

/// Adds `identities` beside the devices their keys were enrolled for.
pub(super) async fn copy(
    server: &TestServer,
    templates: &[DeviceId],
    identities: &[Identity],
) -> Result<(), sqlx::Error> {
    if let Some(url) = server.database_url() {
        let mut db = PgConnection::connect(url).await?;
        let mut statements = Vec::new();
        for copy in &COPIES {
            let columns = sqlx::query_scalar(
                "SELECT column_name::text FROM information_schema.columns \
                 WHERE table_schema = current_schema() AND table_name = $1",
            );
            let columns: Vec<String> = columns.bind(copy.table).fetch_all(&mut db).await?;
            statements.push(copy.sql(&columns, |number| format!("${number}::uuid")));
        }
        for batch in identities.chunks(BATCH) {
            let mut tx = db.begin().await?;
            for identity in batch {
                for (copy, sql) in COPIES.iter().zip(&statements) {
                    let mut query = sqlx::query(AssertSqlSafe(sql.clone()));
                    for value in copy.values(identity) {
                        query = query.bind(value);
                    }
                    tx.execute(query.bind(plain(templates[identity.key])))
                        .await?;
                }
                let labelled = sqlx::query(AssertSqlSafe(label("$1::uuid")));
                tx.execute(labelled.bind(plain(identity.device))).await?;
            }
            tx.commit().await?;
        }
        return db.close().await;
    }
    let file = server.data().join("kernex.db");
    let options = SqliteConnectOptions::new().filename(file);
    let mut db = SqliteConnection::connect_with(&options).await?;
    let mut statements = Vec::new();
    for copy in &COPIES {
        let columns = sqlx::query_scalar("SELECT name FROM pragma_table_info($1)");
        let columns: Vec<String> = columns.bind(copy.table).fetch_all(&mut db).await?;
        statements.push(copy.sql(&columns, |number| format!("unhex(${number})")));
    }
    for batch in identities.chunks(BATCH) {
        let mut tx = db.begin_with("BEGIN IMMEDIATE").await?;
        for identity in batch {
            for (copy, sql) in COPIES.iter().zip(&statements) {
                let mut query = sqlx::query(AssertSqlSafe(sql.clone()));
                for value in copy.values(identity) {
                    query = query.bind(value);
                }
                tx.execute(query.bind(plain(templates[identity.key])))
                    .await?;
            }
            let labelled = sqlx::query(AssertSqlSafe(label("unhex($1)")));
            tx.execute(labelled.bind(plain(identity.device))).await?;
        }
        tx.commit().await?;
    }
    db.close().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_a_row_is_copied() {
        let columns = ["digest", "device_id", "der", "revoked_at"].map(String::from);
        let sql = COPIES[1].sql(&columns, |number| format!("${number}::uuid"));
        assert_eq!(
            sql,
            "INSERT INTO device_keys (digest, device_id, der, revoked_at) \
             SELECT $1, $2::uuid, der, revoked_at FROM device_keys WHERE device_id = $3::uuid"
        );
    }
}
