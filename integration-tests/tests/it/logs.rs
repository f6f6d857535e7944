//! Logs: a line reads alone, no name stands twice in it, and states and reasons are the words of
//! the contract wherever they are told.

use kernex_integration_tests::{
    AgentOptions, Ctl, Database, ServerOptions, TestServer, wait::seen, wait_for,
};
use serde_json::Value;

/// The JSON lines of a log; other output is left out.
fn lines(log: &str) -> Vec<Value> {
    let objects = log.lines().filter(|line| line.starts_with('{'));
    objects
        .map(|line| {
            let parsed: Value = serde_json::from_str(line).expect("a JSON object");
            for name in parsed.as_object().expect("an object").keys() {
                // Quotes inside a value would be escaped.
                let places = ["{", ","].map(|before| format!("{before}\"{name}\":"));
                let count: usize = places.iter().map(|place| line.matches(place).count()).sum();
                assert_eq!(count, 1, "{name} in {line}");
            }
            parsed
        })
        .collect()
}

fn said<'a>(lines: &'a [Value], message: &str) -> Option<&'a Value> {
    lines.iter().find(|line| line["message"] == message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_reads_the_same_on_the_device_and_on_the_server() {
    let options = ServerOptions::default().env("KERNEX_LOG_FORMAT", "json");
    let server = TestServer::start_with(Database::Sqlite, options).await;
    let agent = AgentOptions::named("edge-1").env("KERNEX_AGENT_LOG_FORMAT", "json");
    let agent = server.agent_with(agent).await;
    let operator = server.operator();
    let bundle = operator.push_script("app", "1.0", "exit 7").await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    let id = operator.device("edge-1").await.id;

    let of_agent = wait_for("the agent to tell of the end", || async {
        let lines = lines(&agent.process().log());
        let line = said(&lines, "finished").cloned();
        seen(line.is_some(), lines.len()).map(|_| line.unwrap_or_default())
    })
    .await;
    let of_server = wait_for("the server to tell of the end", || async {
        let lines = lines(&server.process().log());
        let is_whole = said(&lines, "deployment finished").is_some();
        seen(is_whole, lines.len()).map(|_| lines)
    })
    .await;
    let ended = said(&of_server, "attempt ended").expect("an outcome is told");
    for line in [&of_agent, ended] {
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["state"], "failed");
        assert_eq!(line["reason"], "script_failed");
        assert_eq!(line["exit_code"], 7);
        assert_eq!(line["device"], id.as_str());
        assert!(
            !line["why"].as_str().unwrap_or_default().is_empty(),
            "{line}"
        );
    }
    // In the line once, and in the trace by the names that traces have.
    for name in ["error.type", "process.exit.code"] {
        assert_eq!(of_agent[name], Value::Null, "{of_agent}");
    }
    let got = lines(&agent.process().log());
    let got = said(&got, "got a command").expect("a command is told");
    assert_eq!(got["acceptance"], "accepted");
    assert_eq!(ended["disposition"], "applied");
    assert_eq!(ended["command"], of_agent["command"]);
    let created = said(&of_server, "deployment created").expect("the order is told");
    assert_eq!(created["caller"], "admin");
    assert_eq!(created["bundle"], "app:1.0");
    let finished = said(&of_server, "deployment finished").expect("its end is told");
    assert_eq!(finished["result"], "failed");
    assert_eq!(finished["deployment"], created["deployment"]);
    assert_eq!(target.exit_code, Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_says_who_asked_for_what_and_why_it_was_refused() {
    let server = TestServer::start(Database::Sqlite).await;
    let ctl = Ctl::on(&server);
    assert_eq!(ctl.run(&["device", "get", "nobody"]).code, Some(5));
    let log = server.process().log();
    let line = log.lines().find(|line| line.contains("rpc refused"));
    let line = line.unwrap_or_else(|| panic!("no refusal in\n{log}"));
    for part in [
        "reason=NOT_FOUND",
        "caller=admin",
        "rpc.method=kernex.v1.DeviceService/GetDevice",
        "rpc.response.status_code=NOT_FOUND",
        "client.address=127.0.0.1",
        "nobody",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert_eq!(line.matches("GetDevice").count(), 1, "{line}");
}
