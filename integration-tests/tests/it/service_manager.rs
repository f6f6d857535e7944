//! What a service manager such as systemd hears of both programs, and the probe of containers.

use std::{os::unix::ffi::OsStrExt as _, time::Duration};

use kernex_integration_tests::{
    AgentOptions, Database, ServerOptions, TestServer,
    server::{command, free_port},
};
use tempfile::TempDir;
use tokio::{net::UnixDatagram, time::timeout};

const PATIENCE: Duration = Duration::from_secs(60);

/// Hears what programs say to their service manager.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = TempDir::with_prefix("kernex-test-").expect("a temporary folder can be made");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        Self { socket, folder }
    }

    fn address(&self) -> String {
        let path = self.folder.path().join("notify");
        String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
    }

    /// Waits until it hears a line that begins so; lines before it are passed over.
    async fn hears(&self, line: &str) -> String {
        let mut heard = Vec::new();
        let hearing = async {
            loop {
                let mut message = [0; 4096];
                let length = self.socket.recv(&mut message).await.expect("a message");
                let message = String::from_utf8_lossy(&message[..length]).into_owned();
                let found = message.lines().any(|said| said.starts_with(line));
                heard.push(message.clone());
                if found {
                    return message;
                }
            }
        };
        let found = timeout(PATIENCE, hearing).await;
        found.unwrap_or_else(|_| panic!("`{line}` was not said; heard {heard:?}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_tells_its_service_manager_that_it_is_ready_alive_and_stopping() {
    let manager = Manager::new();
    let options = ServerOptions::default()
        .env("NOTIFY_SOCKET", manager.address())
        .env("WATCHDOG_USEC", "300000");
    let mut server = TestServer::start_with(Database::Sqlite, options).await;
    let ready = manager.hears("READY=1").await;
    let port = server.port();
    assert!(
        ready.contains(&format!("STATUS=listening on 127.0.0.1:{port}\n")),
        "{ready}"
    );
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    server.stop();
    manager.hears("STOPPING=1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_says_whether_it_is_connected() {
    let manager = Manager::new();
    let mut server = TestServer::start(Database::Sqlite).await;
    let options = AgentOptions::named("edge-1")
        .env("NOTIFY_SOCKET", manager.address())
        .env("WATCHDOG_USEC", "300000");
    let mut agent = server.agent_with(options).await;
    // An agent is not restarted because its server is away.
    let ready = manager.hears("READY=1").await;
    assert!(ready.contains("STATUS=not connected yet\n"), "{ready}");
    let connected = manager.hears("STATUS=connected to ").await;
    assert!(connected.contains(" as edge-1\n"), "{connected}");
    server.kill();
    manager.hears("STATUS=not connected to ").await;
    manager.hears("WATCHDOG=1").await;
    server.start_again().await;
    manager.hears("STATUS=connected to ").await;
    agent.stop();
    manager.hears("STOPPING=1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_tells_a_server_that_is_ready_from_one_that_is_not() {
    let address = format!("127.0.0.1:{}", free_port());
    let options = ServerOptions::default().env("KERNEX_METRICS_LISTEN", &address);
    let mut server = TestServer::start_with(Database::Sqlite, options).await;
    let probe = || {
        let mut probe = command("probe");
        probe.env("KERNEX_METRICS_LISTEN", &address);
        tokio::task::block_in_place(|| probe.output()).expect("it runs")
    };
    let output = probe();
    assert!(output.status.success(), "{output:?}");
    server.stop();
    let output = probe();
    assert!(!output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains(&format!("no answer from {address}")),
        "{told}"
    );
}
