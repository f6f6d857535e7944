//! The alerts in `deploy/prometheus`: they are tested with histories, and look at figures that
//! there are.

use std::{collections::BTreeSet, fs, path::PathBuf};

use kernex_integration_tests::{Database, ServerOptions, TestServer, http::HttpClient};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus"))
}

#[test]
#[cfg_attr(not(kernex_promtool), ignore = "promtool is not installed")]
fn alerts_are_well_formed_and_fire_when_they_should() {
    for words in [
        ["check", "rules", "kernex.rules.yml"],
        ["test", "rules", "kernex.rules.test.yml"],
    ] {
        let output = std::process::Command::new("promtool")
            .args(words)
            .current_dir(folder())
            .output()
            .expect("promtool can be started; Debian: apt install prometheus");
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "promtool {words:?}\n{}",
            String::from_utf8_lossy(&said)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_alert_has_a_runbook_and_looks_at_figures_that_exist() {
    // Any free port; the log says which.
    let options = ServerOptions::default().env("KERNEX_METRICS_LISTEN", "127.0.0.1:0");
    let server = TestServer::start_with(Database::Sqlite, options).await;
    let scrape = scrape(&server).await;
    let there: BTreeSet<&str> = scrape
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let rules = fs::read_to_string(folder().join("kernex.rules.yml")).unwrap();
    let count = |words: &str| rules.matches(words).count();
    let alerts = count("- alert: ");
    assert!(alerts >= 15, "{alerts}");
    for part in ["runbook: ", "summary: ", "severity: "] {
        assert_eq!(count(part), alerts, "each alert has a {part}");
    }
    let words = rules.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    let asked: BTreeSet<&str> = words
        .filter(|word| word.starts_with("kernex_") || word.starts_with("process_"))
        .collect();
    // A histogram without a measurement is not in a scrape.
    let late = "kernex_rpc_duration_seconds";
    let missing: Vec<_> = asked
        .iter()
        .filter(|name| !there.contains(*name) && **name != late)
        .collect();
    assert!(missing.is_empty(), "{missing:?} are not in\n{scrape}");
}

/// A scrape of the server, whose port is in its log.
async fn scrape(server: &TestServer) -> String {
    let log = server.process().log();
    let line = log
        .lines()
        .find(|line| line.contains("metrics on /metrics"));
    let address = line.and_then(|line| line.split("address=127.0.0.1:").nth(1));
    let port = address.and_then(|rest| rest.split_whitespace().next());
    let port: u16 = port
        .and_then(|port| port.parse().ok())
        .unwrap_or_else(|| panic!("no port in\n{log}"));
    HttpClient::at(port).get("/metrics").await.body
}
