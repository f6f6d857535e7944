//! Rows of a large fleet, written into the database of a server: no agents, only what lists and
//! screens show of them. The server may run meanwhile.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};
use uuid::Uuid;

/// What a fleet of rows is.
#[derive(Debug, Clone)]
pub struct Rows {
    /// How many devices.
    pub devices: u32,
    /// What their names begin with.
    pub prefix: String,
}

/// How many devices differ in which way; all numbers count devices.
impl Rows {
    /// Devices that are online.
    #[must_use]
    pub fn online(&self) -> u32 {
        self.devices - self.each(100, 1) - self.conflicted()
    }

    /// Devices of which two copies were seen.
    #[must_use]
    pub fn conflicted(&self) -> u32 {
        self.each(1000, 7)
    }

    /// Devices that run 1.0 although 2.0 was to run there.
    #[must_use]
    pub fn drifted(&self) -> u32 {
        self.each(500, 3)
    }

    /// Devices on which the deployment failed.
    #[must_use]
    pub fn failed(&self) -> u32 {
        self.each(100, 2)
    }

    /// How many numbers below the count leave `rest` when divided by `by`.
    fn each(&self, by: u32, rest: u32) -> u32 {
        self.devices / by + u32::from(self.devices % by > rest)
    }

    /// Writes them, in one transaction, with a bundle `PREFIXtool:2.0` and a deployment of it that
    /// is finished; returns the id of that.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn write(&self, url: &str) -> Result<Uuid, sqlx::Error> {
        let deployment = Uuid::now_v7();
        if url.starts_with("postgres") {
            let statements = self.statements(Dialect::Postgres, deployment);
            let mut connection = PgConnection::connect(url).await?;
            let mut transaction = connection.begin().await?;
            for statement in statements {
                transaction.execute(AssertSqlSafe(statement)).await?;
            }
            transaction.commit().await?;
            connection.close().await?;
        } else {
            let statements = self.statements(Dialect::Sqlite, deployment);
            let mut connection = SqliteConnection::connect(url).await?;
            connection.execute("PRAGMA busy_timeout = 60000").await?;
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            for statement in statements {
                transaction.execute(AssertSqlSafe(statement)).await?;
            }
            transaction.commit().await?;
            connection.close().await?;
        }
        Ok(deployment)
    }

    fn statements(&self, dialect: Dialect, deployment: Uuid) -> Vec<String> {
        let count = self.devices;
        let prefix = &self.prefix;
        let now = now();
        let hour = micros(Duration::from_secs(3600));
        let year = now + 365 * 24 * hour;
        let id = dialect.random();
        let replica = dialect.literal(Uuid::now_v7());
        let bundle = dialect.literal(Uuid::now_v7());
        let deployment = dialect.literal(deployment);
        let [old, new] = ["1", "2"].map(|digit| digit.repeat(64));
        let numbers = format!(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {count} - 1) "
        );
        let devices = format!("FROM n JOIN devices d ON d.name = '{prefix}' || n.i");
        vec![
            format!(
                "INSERT INTO devices (id, name, created_at, revision, epoch, confirmed_epoch, generation, conflicted, \
                 conflict, protocol_revision, last_seen, agent_version, boot_id, os, arch, hostname, kernel, cpu_count, \
                 memory_bytes) {numbers} SELECT {id}, '{prefix}' || i, {now} - {hour}, 1, 1, 1, 1, i % 1000 = 7, \
                 CASE WHEN i % 1000 = 7 THEN 'copies' ELSE '' END, 2, \
                 {now} - CASE WHEN i % 100 = 1 THEN {hour} ELSE 0 END, \
                 CASE WHEN i % 50 = 0 THEN '0.0.9' ELSE '0.1.0' END, 'boot', 'linux', 'x86_64', 'host-' || i, '6.1', \
                 4, 8589934592 FROM n"
            ),
            format!(
                "INSERT INTO device_labels (device_id, key, value) {numbers} SELECT d.id, 'site', 'site-' || (i % 40) \
                 {devices}"
            ),
            format!("INSERT INTO leases (replica, expires_at) VALUES ({replica}, {year})"),
            format!(
                "INSERT INTO sessions (device_id, epoch, replica, token_hash, journal_id, opened_at, confirmed_at) \
                 {numbers} SELECT d.id, 1, {replica}, 'rows-' || d.name, {id}, {now}, {now} {devices} \
                 WHERE i % 100 <> 1"
            ),
            format!(
                "INSERT INTO device_releases (device_id, name, version, digest, previous_digest, since) {numbers} \
                 SELECT d.id, '{prefix}tool', CASE WHEN i % 100 = 2 THEN '1.0' ELSE '2.0' END, \
                 CASE WHEN i % 100 = 2 THEN '{old}' ELSE '{new}' END, '', {now} {devices}"
            ),
            format!(
                "INSERT INTO device_drifts (device_id, name, expected_version, expected_digest, actual_version, \
                 actual_digest, since) {numbers} SELECT d.id, '{prefix}tool', '2.0', '{new}', '1.0', '{old}', {now} \
                 {devices} WHERE i % 500 = 3"
            ),
            format!(
                "INSERT INTO bundles (id, name, version, digest, size, format, manifest_json, created_by, created_at) \
                 VALUES ({bundle}, '{prefix}tool', '2.0', '{new}', 1048576, 'tar.gz', '{{}}', 'rows', {now})"
            ),
            format!(
                "INSERT INTO deployments (id, bundle_name, bundle_version, digest, state, result, paused_reason, phase, \
                 delivery_us, execution_us, traceparent, created_by, created_at, finished_at, revision) VALUES \
                 ({deployment}, '{prefix}tool', '2.0', '{new}', 'finished', 'failed', '', 0, {hour}, {hour}, '', 'rows', \
                 {now}, {now}, 1)"
            ),
            format!(
                "INSERT INTO targets (id, deployment_id, device_id, device_name, bundle_name, bundle_version, digest, \
                 generation, phase, latest_attempt, created_at) {numbers} SELECT {id}, {deployment}, d.id, d.name, \
                 '{prefix}tool', '2.0', '{new}', 1, 0, 1, {now} {devices}"
            ),
            format!(
                "INSERT INTO attempts (target_id, number, deployment_id, device_id, bundle_name, generation, revision, \
                 state, unresolved, reason, message, bytes_done, bytes_total, output_tail, stop_requested, sent_epoch, \
                 stop_sent_epoch, delivery_deadline, execution_us, created_at, updated_at, closed_at, answered) \
                 SELECT t.id, 1, t.deployment_id, t.device_id, t.bundle_name, 1, 1, \
                 CASE WHEN i % 100 = 2 THEN 'failed' ELSE 'succeeded' END, FALSE, \
                 CASE WHEN i % 100 = 2 THEN 'disk_full' END, CASE WHEN i % 100 = 2 THEN 'the disk is full' ELSE '' END, \
                 0, 0, '', FALSE, 1, 0, {now}, {hour}, {now}, {now}, {now}, TRUE \
                 FROM (SELECT targets.*, CAST(SUBSTR(device_name, {digits}) AS INTEGER) AS i FROM targets \
                 WHERE deployment_id = {deployment}) t",
                digits = prefix.chars().count() + 1
            ),
        ]
    }
}

/// Words that differ between the two databases.
#[derive(Debug, Clone, Copy)]
enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// A new id for each row.
    const fn random(self) -> &'static str {
        match self {
            Self::Sqlite => "randomblob(16)",
            Self::Postgres => "gen_random_uuid()",
        }
    }

    fn literal(self, id: Uuid) -> String {
        match self {
            Self::Sqlite => format!("x'{}'", id.simple()),
            Self::Postgres => format!("'{id}'::uuid"),
        }
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[expect(
    clippy::disallowed_methods,
    reason = "rows are dated by the clock of this machine, as the server's would be"
)]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    micros(since.unwrap_or_default())
}
