//! Traces: one from the operator's command to the script on the device and back.

use std::collections::BTreeSet;

use kernex_integration_tests::{
    AgentOptions, Ctl, Database, ServerOptions, TestServer,
    collector::{Collector, ReceivedSpan},
    wait_for,
};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_runs_from_deploy_through_the_server_into_the_script() {
    let collector = Collector::start().await;
    let options = ServerOptions::default().env(ENDPOINT, collector.endpoint());
    let server = TestServer::start_with(Database::Sqlite, options).await;
    let agent = AgentOptions::named("edge-1").env(ENDPOINT, collector.endpoint());
    let _agent = server.agent_with(agent).await;
    let ctl = Ctl::on(&server);
    let folder = server.scratch().join("app");
    std::fs::create_dir(&folder).unwrap();
    let manifest = r#"{"name": "app", "version": "1.0", "deploy": {"script": "true"}}"#;
    std::fs::write(folder.join("manifest.json"), manifest).unwrap();
    let _ = ctl.ok(&["bundle", "push", "app"]);
    let mut deploy = ctl.command(&["deploy", "app:1.0", "--device", "edge-1", "--watch"]);
    let output = deploy.env(ENDPOINT, collector.endpoint()).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let trace = wait_for("one trace that spans all three programs", || async {
        let spans = collector.spans();
        let traces: BTreeSet<Vec<u8>> = spans
            .iter()
            .map(|seen| seen.span.trace_id.clone())
            .collect();
        let of = |id: &Vec<u8>| -> Vec<ReceivedSpan> {
            spans
                .iter()
                .filter(|seen| &seen.span.trace_id == id)
                .cloned()
                .collect()
        };
        let whole = traces.iter().map(of).find(|spans| {
            let services: BTreeSet<&str> = spans.iter().map(|seen| seen.service.as_str()).collect();
            let steps = ["download", "unpack", "script", "report"];
            ["kernexctl", "kernex-server", "kernex-agent"]
                .iter()
                .all(|name| services.contains(name))
                && steps
                    .iter()
                    .all(|step| spans.iter().any(|seen| seen.span.name.contains(step)))
        });
        whole.ok_or_else(|| {
            let told = |seen: &ReceivedSpan| {
                format!(
                    "{} {} {}",
                    hex::encode(&seen.span.trace_id),
                    seen.service,
                    seen.span.name
                )
            };
            spans.iter().map(told).collect::<Vec<_>>().join("\n")
        })
    })
    .await;
    let ids: BTreeSet<&[u8]> = trace
        .iter()
        .map(|seen| seen.span.span_id.as_slice())
        .collect();
    let roots = trace
        .iter()
        .filter(|seen| !ids.contains(seen.span.parent_span_id.as_slice()));
    let roots: Vec<&str> = roots.map(|seen| seen.service.as_str()).collect();
    assert_eq!(
        roots,
        ["kernexctl"],
        "everything hangs from the operator's command"
    );
    let rpc = trace.iter().find(|seen| {
        seen.service == "kernex-server"
            && seen.span.attributes.iter().any(|it| it.key == "rpc.system")
    });
    assert!(rpc.is_some(), "RPC spans follow the conventions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_collector_delays_nothing() {
    let nowhere = format!(
        "http://127.0.0.1:{}",
        kernex_integration_tests::server::free_port()
    );
    let options = ServerOptions::default().env(ENDPOINT, &nowhere);
    let mut server = TestServer::start_with(Database::Sqlite, options).await;
    let agent = AgentOptions::named("edge-1").env(ENDPOINT, &nowhere);
    let mut agent = server.agent_with(agent).await;
    let archive = kernex_integration_tests::BundleBuilder::script("app", "1.0", "true")
        .gzip()
        .await;
    let bundle = server.operator().push(&archive).await;
    let target = server.operator().deploy_and_finish(&bundle, "edge-1").await;
    assert_eq!(target.exit_code, Some(0));
    agent.stop();
    server.stop();
}
