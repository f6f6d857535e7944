//! Ways into any network: proxies, certificates of other authorities, several addresses.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kernex_integration_tests::{
    AgentOptions, BundleBuilder, Ctl, Database, ServerOptions, TestAgent, TestServer,
    agent::bare_command,
    connect_proxy::{ConnectProxy, SITE},
    server::free_port,
    wait::seen,
    wait_for,
};
use kernex_proto::v1::AttemptState;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

const USER: &str = "ada:s3cret";

/// A server of a site that only the proxy reaches by name.
async fn at_a_site() -> (TestServer, String) {
    let options = ServerOptions::default().env("KERNEX_PUBLIC_ADDRESS", SITE);
    let server = TestServer::start_with(Database::Sqlite, options).await;
    let url = format!("https://{SITE}:{}", server.port());
    (server, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_a_proxy_works_and_its_scripts_learn_no_password() {
    let (server, url) = at_a_site().await;
    let operator = server.operator();
    let proxy = ConnectProxy::start(Some(USER)).await;
    let token = operator.enrollment_token(&[]).await;
    let options = AgentOptions::named("edge-1")
        .env("https_proxy", format!("http://{USER}@{}", proxy.address()))
        .env("NO_PROXY", "other.example");
    let (scratch, key) = (server.scratch(), server.new_key());
    let agent = TestAgent::enrol_at(scratch, &url, &token, key, options);
    let archive = BundleBuilder::script("app", "1.0", "env | grep -i proxy");
    let bundle = operator.push(&archive.gzip().await).await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    let shown = format!("https_proxy=http://{}\n", proxy.address());
    let output = &target.output_tail;
    assert!(output.contains(&shown), "{output}");
    assert!(output.contains("NO_PROXY=other.example"), "{output}");
    for told in [output, &agent.process().log()] {
        assert!(!told.contains("s3cret"), "{told}");
    }
    // Enrolment, session and download.
    let asked = proxy.asked();
    assert!(asked.len() >= 3, "{asked:?}");
    let through = format!("{SITE}:{}", server.port());
    assert!(asked.iter().all(|to| *to == through), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kernexctl_goes_through_a_proxy_and_says_what_is_wrong_with_it() {
    let (server, url) = at_a_site().await;
    let proxy = ConnectProxy::start(Some(USER)).await;
    let ctl = Ctl::at(server.scratch());
    let (ca, token) = (
        server.data().join("ca.pem"),
        server.data().join("admin.token"),
    );
    let added = ctl.run(&[
        "context",
        "add",
        "site",
        "--server",
        &url,
        "--ca",
        &ca.to_string_lossy(),
        "--token-file",
        &token.to_string_lossy(),
    ]);
    assert_eq!(added.code, Some(0), "{}", added.stderr);
    let good = format!("http://{USER}@{}", proxy.address());
    let typed = ctl.run(&["device", "list", "--proxy", &good]);
    assert_eq!(typed.code, Some(0), "{}", typed.stderr);
    let mut by_environment = ctl.command(&["device", "list"]);
    let output = by_environment.env("HTTPS_PROXY", &good).output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let wrong = format!("http://ada:wr0ng@{}", proxy.address());
    let refused = ctl.run(&["device", "list", "--proxy", &wrong]);
    assert_eq!(refused.code, Some(7), "{}", refused.stderr);
    let shown = format!("http://{}", proxy.address());
    for part in [shown.as_str(), "authorization required", "NAME:PASSWORD"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    assert!(!refused.stderr.contains("wr0ng"), "{}", refused.stderr);
    let unspoken = ctl.run(&["device", "list", "--proxy", "socks5://u:s3cret@p:1"]);
    assert_eq!(unspoken.code, Some(2), "{}", unspoken.stderr);
    assert!(!unspoken.stderr.contains("s3cret"), "{}", unspoken.stderr);
    // Addresses of this machine do not go through the proxy.
    let mut near = Ctl::on(&server).command(&["device", "list", "--context", "test"]);
    let output = near
        .env("https_proxy", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Another certificate authority, with the files of a certificate from it.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("roots.pem"), issuer.pem()).unwrap();
        Self {
            issuer,
            folder: folder.to_owned(),
        }
    }

    /// Writes a certificate for a name into `folder`.
    fn issue(&self, folder: &Path, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
        fs::write(folder.join("tls.pem"), made.pem()).unwrap();
    }

    fn roots(&self) -> String {
        self.folder.join("roots.pem").to_string_lossy().into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_serves_clients_without_a_pin_and_is_reloaded() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(&folder.path().join("one"));
    authority.issue(folder.path(), "localhost");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let options = ServerOptions::default()
        .env("KERNEX_TLS_CERT", path("tls.pem"))
        .env("KERNEX_TLS_KEY", path("tls.key"));
    let server = TestServer::start_with(Database::Sqlite, options).await;
    let url = format!("https://localhost:{}", server.port());
    // A client that pins the server's own CA still meets that.
    let ctl = Ctl::on(&server);
    let _ = ctl.ok(&["device", "list", "--context", "test"]);
    let _pinned = server.agent("pinned").await;

    let token = server.admin_token();
    let list = |roots: &str| {
        let mut command = ctl.command(&["device", "list"]);
        command
            .env("KERNEX_SERVER", &url)
            .env("KERNEX_TOKEN", &token)
            .env("KERNEX_CA", "system")
            .env("SSL_CERT_FILE", roots);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = list(&authority.roots());
    assert_eq!(code, Some(0), "{said}");
    let mut doctor = ctl.command(&["doctor"]);
    doctor
        .env("KERNEX_SERVER", &url)
        .env("KERNEX_TOKEN", &token)
        .env("KERNEX_CA", "system")
        .env("SSL_CERT_FILE", authority.roots());
    let output = doctor.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let other = Authority::new(&folder.path().join("other"));
    let (code, said) = list(&other.roots());
    assert_eq!(code, Some(7), "{said}");

    // Agents trust other authorities only where their token says so, and for that name only.
    let text = |name: &str| {
        let made = ctl.ok(&["enrollment", "create", "-o", "name", "--webpki", name]);
        made.trim().to_owned()
    };
    let enrol = |name: &str, token: &str| {
        let mut enrol = bare_command("enroll");
        enrol
            .args(["--server", &url, "--token", token, "--name", name])
            .arg("--state-dir")
            .arg(server.scratch().join("agents").join(name))
            .env("SSL_CERT_FILE", authority.roots());
        let output = enrol.output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    for name in ["free", "misled"] {
        let state = server.scratch().join("agents").join(name);
        kernex_integration_tests::agent::place_key(&state, server.new_key());
    }
    let (is_enrolled, said) = enrol("misled", &text("other.example"));
    assert!(!is_enrolled, "the name in the token counts: {said}");
    let options = AgentOptions::named("free").env("SSL_CERT_FILE", authority.roots());
    let (scratch, key) = (server.scratch(), server.new_key());
    let _free = TestAgent::enrol_at(scratch, &url, &text("localhost"), key, options);
    server.operator().online("free").await;
    let stored = fs::read_to_string(scratch.join("agents/free/device.json")).unwrap();
    assert!(stored.contains("\"webpki\""), "{stored}");
    let mut doctor = bare_command("doctor");
    doctor
        .arg("--state-dir")
        .arg(scratch.join("agents/free"))
        .env("SSL_CERT_FILE", authority.roots());
    let output = doctor.output().unwrap();
    assert!(output.status.success(), "{output:?}");

    other.issue(folder.path(), "localhost");
    wait_for("the new certificate to be served", || async {
        let (code, said) = list(&other.roots());
        seen(code == Some(0), said)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_on_to_the_next_address_when_one_does_not_answer() {
    let server = TestServer::start(Database::Sqlite).await;
    let operator = server.operator();
    let token = operator.enrollment_token(&[]).await;
    let dead = format!("https://127.0.0.1:{}", free_port());
    let both = format!("{dead},{}", server.url());
    let options = AgentOptions::named("edge-1")
        .env("KERNEX_AGENT_SERVER", &both)
        .env("KERNEX_AGENT_MAX_RECONNECT_SECONDS", "1");
    let (scratch, key) = (server.scratch(), server.new_key());
    let agent = TestAgent::enrol_at(scratch, &both, &token, key, options);
    operator.online("edge-1").await;
    let log = agent.process().log();
    assert!(log.contains(&format!("server={dead}")), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_printed_at_the_first_start_work() {
    let server = TestServer::start(Database::Sqlite).await;
    let log = server.process().log();
    let next = log
        .lines()
        .find_map(|line| line.strip_prefix("Next: kernexctl "));
    let words: Vec<&str> = next.expect("a next step").split(' ').collect();
    let ctl = Ctl::at(server.scratch());
    let _ = ctl.ok(&words);
    let _ = ctl.ok(&["device", "list"]);
    assert!(words.contains(&server.url().as_str()), "{words:?}");
}
