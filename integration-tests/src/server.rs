//! One real `kernex-server serve` with a folder, a port and a database of its own.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use kernex_proto::handshake::ChannelBinding;
use rustix::process::Signal;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::{
    binaries,
    database::Database,
    http::HttpClient,
    operator::Operator,
    process::{Process, on_core},
};

mod backup;
mod devices;
mod dial;
mod options;

pub use backup::Backup;
use dial::{admin_token, connect, dial, dial_once, url};
pub use options::ServerOptions;

/// A running control plane; dropped, it is stopped with SIGTERM and has to end well.
#[derive(Debug)]
pub struct TestServer {
    process: Process,
    operator: Operator,
    port: u16,
    database_url: Option<String>,
    options: ServerOptions,
    next_key: AtomicUsize,
    folder: TempDir,
}

impl TestServer {
    /// Starts one on a fresh database and waits until it answers.
    pub async fn start(database: Database) -> Self {
        Self::start_with(database, ServerOptions::default()).await
    }

    /// Starts one whose metrics and probes are asked for, with a client for them.
    pub async fn monitored(database: Database) -> (Self, HttpClient) {
        let http = HttpClient::at(free_port());
        let options = ServerOptions::default().env("KERNEX_METRICS_LISTEN", http.address());
        (Self::start_with(database, options).await, http)
    }

    /// Starts one with options.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_with(database: Database, options: ServerOptions) -> Self {
        let folder = TempDir::with_prefix("kernex-test-").expect("a temporary folder can be made");
        let data = options.data_below(folder.path());
        let database_url = match &options.database {
            Some(url) => Some(url.clone()),
            None => database.fresh_url(&data).await,
        };
        let port = free_port();
        let mut process = spawn(folder.path(), port, database_url.as_deref(), &options, None);
        let operator = connect(&mut process, &data, port, options.plaintext).await;
        Self {
            process,
            operator,
            port,
            database_url,
            options,
            next_key: AtomicUsize::new(0),
            folder,
        }
    }

    /// Another replica: the same database, CA and bundles.
    ///
    /// # Panics
    /// When this one keeps its rows in a file of its own.
    pub async fn replica(&self) -> Self {
        let url = self.database_url.clone();
        let url = url.expect("replicas share a PostgreSQL database");
        let folder = TempDir::with_prefix("kernex-test-").expect("a temporary folder can be made");
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("a data folder can be made");
        for name in ["ca.pem", "ca.key", "admin.token"] {
            fs::copy(self.data().join(name), data.join(name)).expect("the first replica has it");
        }
        let bundles = self.data().join("bundles").display().to_string();
        let mut options = self.options.clone().database(url);
        options = options.env("KERNEX_BUNDLE_STORE", bundles);
        options.data = None;
        let port = free_port();
        let database = options.database.as_deref();
        let mut process = spawn(folder.path(), port, database, &options, None);
        let operator = connect(&mut process, &data, port, options.plaintext).await;
        Self {
            process,
            operator,
            port,
            database_url: options.database.clone(),
            options,
            next_key: AtomicUsize::new(self.next_key.load(Ordering::Relaxed) + 1000),
            folder,
        }
    }

    /// An operator with the admin token of the first start.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator.clone()
    }

    /// The admin token of the first start.
    ///
    /// # Panics
    /// When its file is gone.
    #[must_use]
    pub fn admin_token(&self) -> String {
        admin_token(&self.data()).expect("the server made it")
    }

    /// Where agents and operators find it.
    #[must_use]
    pub fn url(&self) -> String {
        url(self.port, self.options.plaintext)
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The database it was given; `None` is SQLite in the data folder.
    #[must_use]
    pub fn database_url(&self) -> Option<&str> {
        self.database_url.as_deref()
    }

    /// Keeps its rows in another database from the next start on.
    pub fn use_database(&mut self, url: String) {
        self.database_url = Some(url);
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.options.data_below(self.folder.path())
    }

    /// A folder for the test's own files, gone with the server.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// The server's process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A new connection of its own, as an agent or operator makes one.
    pub async fn channel(&self) -> Channel {
        dial(&self.data(), self.port, self.options.plaintext)
            .await
            .expect("the server accepts connections")
    }

    /// One connection that is never replaced, with what both of its ends know it by.
    ///
    /// # Panics
    /// When the server does not take it.
    pub async fn connection(&self) -> (Channel, ChannelBinding) {
        dial_once(&self.data(), self.port, self.options.plaintext)
            .await
            .expect("the server accepts connections")
    }

    /// A TLS connection on which nothing was sent yet.
    ///
    /// # Panics
    /// When the server does not take it.
    pub async fn tls_stream(&self) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
        let ca = CertificateDer::from_pem_file(self.data().join("ca.pem")).expect("a CA");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca).expect("a CA");
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await;
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        tokio_rustls::TlsConnector::from(std::sync::Arc::new(config))
            .connect(name, stream.expect("it listens"))
            .await
            .expect("a TLS handshake")
    }

    /// Index of a pool key that no device of this server has yet.
    pub fn new_key(&self) -> usize {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    /// Stops it with SIGTERM; it has to end well.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Kills it: a power cut.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Suspends or resumes it.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it ends by itself, at most `limit`.
    pub fn ended_within(&mut self, limit: Duration) -> bool {
        self.process.wait_within(limit).is_some()
    }

    /// Whether its process is gone.
    pub fn has_ended(&mut self) -> bool {
        self.process.exited().is_some()
    }

    /// Starts it again on the same folder, port and database, and waits until it answers.
    pub async fn start_again(&mut self) {
        self.spawn_again();
        self.answers().await;
    }

    /// How its process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.exited()
    }

    /// Starts it again and does not wait.
    pub fn spawn_again(&mut self) {
        self.spawn_again_with(None);
    }

    /// Starts it again, this time with one more variable, and does not wait.
    pub fn spawn_again_with(&mut self, variable: Option<(&str, &str)>) {
        let (database, folder) = (self.database_url.as_deref(), self.folder.path());
        self.process = spawn(folder, self.port, database, &self.options, variable);
    }

    /// Waits until it answers.
    pub async fn answers(&mut self) {
        let data = self.data();
        self.operator = connect(&mut self.process, &data, self.port, self.options.plaintext).await;
    }

    /// Files of stored bundles.
    ///
    /// # Panics
    /// When the folder cannot be read.
    #[must_use]
    pub fn blobs(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.data().join("bundles")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)
                .expect("the store can be read")
                .flatten()
            {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files
    }

    /// The stored file of one bundle.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn blob(&self, digest: &str) -> PathBuf {
        let files = self.blobs();
        let found = files.iter().find(|path| {
            // Stores may shard by the first digits.
            let text = path.to_string_lossy().replace('/', "");
            text.contains(digest)
        });
        found
            .unwrap_or_else(|| panic!("no blob {digest} among {files:?}"))
            .clone()
    }
}

/// A `kernex-server` command with this test's settings and none of the caller's.
#[must_use]
pub fn command(verb: &str) -> Command {
    command_of(&binaries::path("kernex-server"), verb)
}

fn command_of(program: &Path, verb: &str) -> Command {
    let mut command = Command::new(program);
    clear_settings(&mut command);
    // Servers run side by side here, and this port is the same for all.
    command.env("KERNEX_METRICS_LISTEN", "");
    command.arg(verb);
    command
}

/// Takes the caller's Kernex and OpenTelemetry settings out of a command's environment.
pub fn clear_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_proxy = text.to_ascii_lowercase().ends_with("_proxy");
        if text.starts_with("KERNEX") || text.starts_with("OTEL_") || text == "RUST_LOG" || is_proxy
        {
            command.env_remove(&name);
        }
    }
}

/// A port nobody listens on at this moment.
///
/// # Panics
/// When the machine has none left.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

/// The same program, with so many descriptors.
fn with_descriptors(program: &Command, most: u64) -> Command {
    let mut command = Command::new("/bin/sh");
    let script = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(program.get_program());
    command.args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn spawn(
    folder: &Path,
    port: u16,
    database: Option<&str>,
    options: &ServerOptions,
    variable: Option<(&str, &str)>,
) -> Process {
    let mut command = match &options.program {
        Some(program) => command_of(program, "serve"),
        None => command("serve"),
    };
    command
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .arg("--data-dir")
        .arg(options.data_below(folder))
        .env("KERNEX_HEARTBEAT_INTERVAL", "500ms")
        .env("RUST_LOG", "info,kernex_server=debug")
        .envs(options.env.iter().map(|(name, value)| (name, value)))
        .envs(variable);
    if options.plaintext {
        command.arg("--plaintext");
    }
    if let Some(url) = database {
        command.args(["--database-url", url]);
    }
    if let Some(most) = options.descriptors {
        command = with_descriptors(&command, most);
    }
    let log = folder.join("server.log");
    on_core(options.core, || {
        Process::spawn("kernex-server", command, &log)
    })
}
