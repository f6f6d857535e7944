//! A private PostgreSQL for the tests of one process. The installed `initdb` makes it, a socket in
//! its own folder reaches it, and it ends with the process, even with one that is killed.
//!
//! `KERNEX_TEST_POSTGRES_URL` names a server to use instead; databases are made in it and left
//! there.

use std::{
    env, fs,
    io::Read,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use rustix::process::geteuid;
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;

/// Where Debian keeps one folder per version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Who runs it when the tests run as root, which `initdb` refuses.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// Longest wait until a new server answers.
const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Postgres {
    /// URL up to the slash before the database's name, and what follows the name.
    url: (String, String),
    /// The server, when it is our own.
    private: Option<Private>,
}

/// A server and its folder.
#[derive(Debug)]
struct Private {
    keeper: Child,
    folder: TempDir,
}

impl Private {
    /// Gives the keeper process a command.
    fn order(&mut self, order: &str) {
        use std::io::Write as _;
        let stdin = self.keeper.stdin.as_mut().expect("a pipe to the keeper");
        writeln!(stdin, "{order}").expect("the keeper listens");
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.path().join("data/postmaster.pid")
    }
}

/// Ends with us: the keeper reads from a pipe only this process holds, stops the server at its end,
/// and clears the folder.
impl Drop for Private {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // Nothing can be done about a failure here.
        let _ = self.keeper.wait();
    }
}

impl Postgres {
    /// The server every test of this process shares; `None` when none is installed.
    ///
    /// # Panics
    /// When one is installed and does not start.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// Starts a server, or takes the one of `KERNEX_TEST_POSTGRES_URL`; `None` when none is
    /// installed.
    ///
    /// # Panics
    /// When one is installed and does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        if let Ok(url) = env::var("KERNEX_TEST_POSTGRES_URL") {
            return Some(Self {
                url: split(&url),
                private: None,
            });
        }
        Self::private()
    }

    /// Starts a server of the caller's own, which it may stop and start again; `None` when none is
    /// installed.
    ///
    /// # Panics
    /// When one is installed and does not start.
    #[must_use]
    pub fn private() -> Option<Self> {
        let programs = programs()?;
        let folder = tempfile::Builder::new()
            .prefix("kx-pg-")
            .tempdir()
            .expect("a temporary folder");
        let data = folder.path().join("data");
        let user = hand_over(folder.path());
        init(&programs, &data, user);
        let keeper = keep(&programs, folder.path(), user);
        let socket = folder.path().display().to_string().replace('/', "%2F");
        let mut server = Private { keeper, folder };
        wait_until_up(&mut server);
        Some(Self {
            url: (format!("postgres://kernex@{socket}"), String::new()),
            private: Some(server),
        })
    }

    /// Stops it as in a crash: connections break, transactions are lost.
    ///
    /// # Panics
    /// When it is not our own, or does not stop.
    pub fn stop_hard(&mut self) {
        let server = self.own();
        server.order("stop");
        let pid = server.pid_file();
        let deadline = Instant::now() + START_LIMIT;
        while pid.exists() {
            assert!(Instant::now() < deadline, "PostgreSQL did not stop");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it again and waits until it answers.
    ///
    /// # Panics
    /// When it is not our own, or does not start.
    pub fn start_again(&mut self) {
        let server = self.own();
        server.order("start");
        wait_until_up(server);
    }

    fn own(&mut self) -> &mut Private {
        self.private.as_mut().expect("a server of our own")
    }

    /// The URL of a new, empty database.
    ///
    /// # Panics
    /// When the server does not make one.
    pub async fn fresh_url(&self) -> String {
        let name = format!("kx_{}", uuid::Uuid::now_v7().simple());
        let mut connection = PgConnection::connect(&self.url_of("postgres"))
            .await
            .expect("PostgreSQL answers");
        let create = format!("CREATE DATABASE {name}");
        connection
            .execute(sqlx::AssertSqlSafe(create))
            .await
            .expect("a new database");
        connection.close().await.expect("an orderly goodbye");
        self.url_of(&name)
    }

    fn url_of(&self, database: &str) -> String {
        format!("{}/{database}{}", self.url.0, self.url.1)
    }
}

/// Makes the database `name` a copy of the one at `url` and returns its URL. Closes every
/// connection to either.
///
/// # Errors
/// When the server refuses.
pub async fn duplicate(url: &str, name: &str) -> Result<String, sqlx::Error> {
    let (base, query) = split(url);
    let original = database_of(url).to_owned();
    let mut connection = PgConnection::connect(&format!("{base}/postgres{query}")).await?;
    let statements = [
        format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
        // Backends of a killed server need a moment to notice. Each gets a second.
        format!(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity \
             WHERE datname = '{original}'"
        ),
        format!("CREATE DATABASE {name} TEMPLATE {original}"),
    ];
    for statement in statements {
        connection.execute(sqlx::AssertSqlSafe(statement)).await?;
    }
    connection.close().await?;
    Ok(format!("{base}/{name}{query}"))
}

/// The database's name in a URL.
#[must_use]
pub fn database_of(url: &str) -> &str {
    let path = url.split('?').next().unwrap_or(url);
    path.rsplit('/').next().unwrap_or_default()
}

/// Takes the database's name out of a URL.
fn split(url: &str) -> (String, String) {
    let (base, query) = url
        .split_once('?')
        .map_or((url, String::new()), |(base, query)| {
            (base, format!("?{query}"))
        });
    let scheme = base.find("://").map_or(0, |at| at + 3);
    let end = base[scheme..]
        .find('/')
        .map_or(base.len(), |at| scheme + at);
    (base[..end].to_owned(), query)
}

/// The folder with `initdb` and `postgres`: on the path, or the newest of Debian's.
fn programs() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).find(|folder| folder.join("initdb").exists());
    let newest = || {
        let versions = fs::read_dir(DEBIAN)
            .ok()?
            .flatten()
            .map(|version| version.path());
        let complete = versions.filter(|version| version.join("bin/initdb").exists());
        let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
        complete
            .max_by_key(number)
            .map(|version| version.join("bin"))
    };
    on_path.or_else(newest)
}

/// Gives the folder to somebody who is not root; returns their ids, when we are.
fn hand_over(folder: &Path) -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("a list of users");
    let ids = UNPRIVILEGED
        .into_iter()
        .find_map(|user| {
            let line = passwd
                .lines()
                .find(|line| line.starts_with(&format!("{user}:")))?;
            let mut ids = line.split(':').skip(2).map(str::parse);
            Some((ids.next()?.ok()?, ids.next()?.ok()?))
        })
        .expect("an unprivileged user to run PostgreSQL");
    chown(folder, Some(ids.0), Some(ids.1)).expect("handing a folder over");
    Some(ids)
}

fn command(program: &Path, user: Option<(u32, u32)>) -> Command {
    let Some((uid, gid)) = user else {
        return Command::new(program);
    };
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={gid}"))
        .arg("--clear-groups")
        .arg(program);
    command
}

fn init(programs: &Path, data: &Path, user: Option<(u32, u32)>) {
    let output = command(&programs.join("initdb"), user)
        .args([
            "--username=kernex",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
            "--pgdata",
        ])
        .arg(data)
        .current_dir("/")
        .output()
        .expect("initdb runs");
    assert!(
        output.status.success(),
        "initdb failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Starts the server under a shell that outlives us by no more than its shutdown.
fn keep(programs: &Path, folder: &Path, user: Option<(u32, u32)>) -> Child {
    // The pipe closes with this process, even one that is killed.
    let script = r#"
        folder=$1; shift
        start() { "$@" </dev/null & server=$!; }
        stop() { kill -QUIT $server; wait $server; }
        start "$@"
        while read -r order; do
            case $order in start) start "$@" ;; stop) stop ;; esac
        done
        stop
        rm -rf "$folder"
    "#;
    let server = command(&programs.join("postgres"), user);
    Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(folder)
        .arg(server.get_program())
        .args(server.get_args())
        .arg("-D")
        .arg(folder.join("data"))
        .arg("-k")
        .arg(folder)
        .args(["-c", "listen_addresses="])
        .args(["-c", "max_connections=500"])
        // Test data need not survive a power cut.
        .args(["-c", "fsync=off", "-c", "full_page_writes=off"])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.join("log")).expect("a log file"))
        .spawn()
        .expect("a shell")
}

fn wait_until_up(server: &mut Private) {
    let folder = server.folder.path().to_owned();
    let deadline = Instant::now() + START_LIMIT;
    let pid = server.pid_file();
    // The last line of the pid file says how far it is.
    let ready = || fs::read_to_string(&pid).is_ok_and(|text| text.contains("ready"));
    while !ready() {
        let mut log = String::new();
        if let Ok(mut file) = fs::File::open(folder.join("log")) {
            let _ = file.read_to_string(&mut log);
        }
        let ended = server.keeper.try_wait().expect("a child to ask").is_some();
        assert!(
            !ended && Instant::now() < deadline,
            "PostgreSQL did not start: {log}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_taken_out_of_urls() {
        for (url, expected) in [
            (
                "postgres://u:p@host:5432/db?sslmode=disable",
                ("postgres://u:p@host:5432", "?sslmode=disable"),
            ),
            ("postgres://host", ("postgres://host", "")),
            ("postgres:///db?host=/tmp", ("postgres://", "?host=/tmp")),
        ] {
            assert_eq!(
                split(url),
                (expected.0.to_owned(), expected.1.to_owned()),
                "{url}"
            );
        }
    }
}
