//! nginx serving the same file over the same TLS and HTTP/2, where it is installed: what a plain
//! file server does.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use kernex_integration_tests::{
    fleet::Connector,
    process::{Process, on_core},
    server::free_port,
    wait_for,
};
use tempfile::TempDir;

use crate::Bench;

/// A running nginx with one worker.
pub(crate) struct Nginx {
    pub(crate) connector: Connector,
    _process: Process,
    folder: TempDir,
}

impl Nginx {
    /// Starts it with the certificate in `identity`; `None` when it is not installed.
    pub(crate) async fn start(bench: &Bench, identity: &Path) -> anyhow::Result<Option<Self>> {
        let mut asked = Command::new("nginx");
        asked.arg("-v").stdout(Stdio::null()).stderr(Stdio::null());
        if !asked.status().is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let folder = TempDir::with_prefix("kernex-nginx-")?;
        let port = free_port();
        let configuration = folder.path().join("nginx.conf");
        fs::write(&configuration, configured(folder.path(), identity, port))?;
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&configuration);
        command.args(["-e", "stderr"]);
        let log = folder.path().join("nginx.log");
        let process = on_core(bench.cores.server(), || {
            Process::spawn("nginx", command, &log)
        });
        let connector = Connector::new(port, &fs::read(identity.join("ca.pem"))?);
        wait_for("nginx to answer", || async {
            let answered = connector.connect(0).await;
            answered.map(drop).map_err(|error| format!("{error:?}"))
        })
        .await;
        Ok(Some(Self {
            connector,
            _process: process,
            folder,
        }))
    }

    /// Puts a file where it is served.
    pub(crate) fn put(&self, name: &str, bytes: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        use std::io::Write as _;
        let file = fs::File::create(self.folder.path().join(name));
        let mut file = file.expect("a temporary folder can be written");
        for piece in bytes {
            file.write_all(piece.as_ref())
                .expect("a temporary folder can be written");
        }
    }
}

fn configured(folder: &Path, identity: &Path, port: u16) -> String {
    let (folder, identity) = (folder.display(), identity.display());
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        temporary += &format!("  {kind}_temp_path {folder}/{kind};\n");
    }
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n{temporary}  access_log off;\n  sendfile on;\n  tcp_nodelay on;\n\
         \x20 http2_chunk_size 256k;\n\
         \x20 server {{\n    listen 127.0.0.1:{port} ssl http2;\n    ssl_protocols TLSv1.3;\n\
         \x20   ssl_certificate {identity}/server.pem;\n    ssl_certificate_key {identity}/server.key;\n\
         \x20   root {folder};\n  }}\n}}\n"
    )
}
