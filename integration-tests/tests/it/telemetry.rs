//! Traces: one from the operator's command to the script on the device and back.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};

use kernex_integration_tests::{
    AgentOptions, Ctl, Database, ServerOptions, TestServer,
    collector::{Collector, ReceivedSpan},
    wait::seen,
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
        let is_create = seen.span.name.ends_with("/CreateDeployment");
        seen.service == "kernex-server" && is_create
    });
    let rpc = rpc.expect("the order is in its trace");
    let attribute = |name| rpc.attribute(name).unwrap_or_default();
    assert_eq!(attribute("rpc.system.name"), "grpc");
    assert_eq!(
        attribute("rpc.method"),
        "kernex.v1.DeploymentService/CreateDeployment"
    );
    assert_eq!(attribute("rpc.response.status_code"), "OK");
    assert_eq!(attribute("caller"), "admin");
    for seen in &trace {
        let about = |name: &str| seen.resource.get(name).map(String::as_str);
        assert_eq!(about("service.version"), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(about("service.instance.id").map(str::len), Some(36));
        assert!(about("host.name").is_some(), "{:?}", seen.resource);
        for noise in ["code.file.path", "thread.id", "busy_ns", "target"] {
            assert_eq!(seen.attribute(noise), None, "{}", seen.span.name);
        }
        let is_failed = seen
            .span
            .status
            .as_ref()
            .is_some_and(|it| it.code() == StatusCode::Error);
        assert!(!is_failed, "{}", seen.span.name);
    }
    let kind = |service: &str, name: &str| {
        let found = trace
            .iter()
            .find(|seen| seen.service == service && seen.span.name == name);
        found.unwrap_or_else(|| panic!("no {name}")).span.kind()
    };
    assert_eq!(kind("kernex-server", "push"), SpanKind::Producer);
    assert_eq!(kind("kernex-agent", "deploy"), SpanKind::Consumer);
    assert_eq!(kind("kernex-server", "report"), SpanKind::Consumer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_deployment_is_red_from_the_command_to_the_script() {
    let collector = Collector::start().await;
    let options = ServerOptions::default().env(ENDPOINT, collector.endpoint());
    let server = TestServer::start_with(Database::Sqlite, options).await;
    let agent = AgentOptions::named("edge-1").env(ENDPOINT, collector.endpoint());
    let _agent = server.agent_with(agent).await;
    let ctl = Ctl::on(&server);
    let folder = server.scratch().join("app");
    std::fs::create_dir(&folder).unwrap();
    let manifest = r#"{"name": "app", "version": "1.0", "deploy": {"script": "exit 7"}}"#;
    std::fs::write(folder.join("manifest.json"), manifest).unwrap();
    let _ = ctl.ok(&["bundle", "push", "app"]);
    let mut deploy = ctl.command(&["deploy", "app:1.0", "--device", "edge-1", "--watch"]);
    let output = deploy.env(ENDPOINT, collector.endpoint()).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let wanted = [
        ("kernexctl", "kernexctl deploy"),
        ("kernex-agent", "deploy"),
        ("kernex-agent", "script"),
        ("kernex-server", "report"),
    ];
    let failed = wait_for("each of them to be red", || async {
        let spans = collector.spans();
        let found: Vec<ReceivedSpan> = wanted
            .iter()
            .filter_map(|(service, name)| {
                let is_it = |it: &&ReceivedSpan| {
                    let status = it.span.status.as_ref();
                    it.service == *service
                        && it.span.name == *name
                        && status.is_some_and(|it| it.code() == StatusCode::Error)
                };
                spans.iter().find(is_it).cloned()
            })
            .collect();
        let names: Vec<&str> = spans.iter().map(|seen| seen.span.name.as_str()).collect();
        seen(found.len() == wanted.len(), names).map(|_| found)
    })
    .await;
    for seen in &failed[1..] {
        let reason = seen.attribute("error.type");
        assert_eq!(
            reason.as_deref(),
            Some("script_failed"),
            "{}",
            seen.span.name
        );
    }
    for seen in &failed[1..3] {
        let code = seen.attribute("process.exit.code");
        assert_eq!(code.as_deref(), Some("7"), "{}", seen.span.name);
    }
    let device = server.operator().device("edge-1").await.id;
    assert_eq!(failed[1].attribute("device"), Some(device));
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
    let ctl = Ctl::on(&server);
    let mut list = ctl.command(&["device", "list"]);
    let output = list.env(ENDPOINT, &nowhere).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("opentelemetry"), "raw errors: {said}");
    agent.stop();
    server.stop();
    for log in [agent.process().log(), server.process().log()] {
        let told = log.matches("traces are lost").count();
        assert_eq!(told, 1, "{log}");
        assert!(!log.contains("BatchSpanProcessor"), "{log}");
    }
}
