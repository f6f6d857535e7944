//! Selectors: built-in labels, the devices they choose, and how a mistake is shown.

use kernex_integration_tests::{AgentOptions, Ctl, Database, TestServer, both_databases};
use kernex_proto::v1::{CreateDeploymentRequest, ListDevicesRequest, UpdateDeviceLabelsRequest};
use tonic::Code;
use tonic_types::StatusExt as _;

both_databases![
    built_in_labels_come_from_the_inventory_of_the_device,
    built_in_labels_cannot_be_set,
    a_mistake_in_a_selector_is_marked_under_its_character,
    targets_are_chosen_by_id_name_and_label,
];

async fn built_in_labels_come_from_the_inventory_of_the_device(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let _agent = server
        .agent_with(AgentOptions::named("edge-1").label("site", "berlin"))
        .await;
    let device = server.operator().device("edge-1").await;
    let inventory = device.inventory.expect("the agent said what it is");
    let version = &device.agent_version;
    let mine = format!(
        "kernex.io/os={},kernex.io/arch in ({},pdp11),kernex.io/agent-version=={version}",
        inventory.os, inventory.arch
    );
    assert_eq!(
        ctl.ok(&["device", "list", "-l", &mine, "-o", "name"])
            .trim(),
        "edge-1"
    );
    assert_eq!(
        ctl.ok(&[
            "device",
            "list",
            "-l",
            "kernex.io/name!=edge-1",
            "-o",
            "name"
        ])
        .trim(),
        ""
    );
    assert_eq!(
        ctl.ok(&[
            "device",
            "list",
            "-l",
            "kernex.io/arch,!kernex.io/os",
            "-o",
            "name"
        ])
        .trim(),
        ""
    );
    // A configuration selects devices in the same way.
    let _ = ctl.ok(&["config", "set", "here", "--to", &mine, "--heartbeat", "1s"]);
}

async fn built_in_labels_cannot_be_set(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let _device = server.raw_device("edge-1").await;
    let set = UpdateDeviceLabelsRequest {
        device: "edge-1".into(),
        set: [("kernex.io/os".to_owned(), "plan9".to_owned())].into(),
        ..Default::default()
    };
    let refused = operator
        .devices()
        .update_device_labels(set)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("kernex.io/os"), "{refused}");
    let ctl = Ctl::on(&server);
    let token = ctl.run(&["enrollment", "create", "--label", "kernex.io/name=me"]);
    assert_eq!(token.code, Some(2), "{}", token.stderr);
}

async fn a_mistake_in_a_selector_is_marked_under_its_character(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    for command in [
        &["device", "list", "-l", "site=berlin,env in (a b)"][..],
        &["deploy", "app:1.0", "--to", "site=berlin,env in (a b)"],
        &[
            "deploy",
            "app:1.0",
            "--to",
            "site=berlin,env in (a b)",
            "--plan",
        ],
        &["config", "set", "x", "--to", "site=berlin,env in (a b)"],
    ] {
        let refused = ctl.run(command);
        assert_eq!(refused.code, Some(2), "{command:?}: {}", refused.stderr);
        let mark = "\n    site=berlin,env in (a b)\n                          ^\n";
        assert!(
            refused.stderr.contains(mark),
            "{command:?}: {}",
            refused.stderr
        );
    }
    let request = ListDevicesRequest {
        selector: "kernex.io/colour=red".into(),
        ..Default::default()
    };
    let refused = server
        .operator()
        .devices()
        .list_devices(request)
        .await
        .unwrap_err();
    let details = refused.get_error_details();
    let violations = &details.bad_request().expect("BadRequest").field_violations;
    assert_eq!(violations[0].field, "selector");
    assert!(
        violations[0]
            .description
            .contains("kernex.io/agent-version"),
        "{violations:?}"
    );
    assert_eq!(
        details.error_info().expect("ErrorInfo").metadata["mark"],
        "0"
    );
}

async fn targets_are_chosen_by_id_name_and_label(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let one = server.raw_device("edge-1").await;
    server.raw_device("edge-2").await;
    server.raw_device("edge-3").await;
    let bundle = operator.push_script("app", "1.0", "true").await.digest;
    let id = operator
        .deploy_for(CreateDeploymentRequest {
            bundle: bundle.clone(),
            device_ids: vec![one.device.to_string()],
            device_names: vec!["edge-2".into(), "edge-1".into()],
            ..Default::default()
        })
        .await
        .unwrap();
    let mut names: Vec<String> = operator
        .targets(&id)
        .await
        .into_iter()
        .map(|target| target.device_name)
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["edge-1", "edge-2"], "the union, each once");

    let everyone = CreateDeploymentRequest {
        bundle: bundle.clone(),
        selector: "*".into(),
        ..Default::default()
    };
    let id = operator.deploy_for(everyone).await.unwrap();
    assert_eq!(operator.targets(&id).await.len(), 3);

    let base = CreateDeploymentRequest {
        bundle,
        ..Default::default()
    };
    for (request, code) in [
        (base.clone(), Code::InvalidArgument),
        (
            CreateDeploymentRequest {
                selector: "site=nowhere".into(),
                ..base.clone()
            },
            Code::InvalidArgument,
        ),
        (
            CreateDeploymentRequest {
                selector: "site in (".into(),
                ..base.clone()
            },
            Code::InvalidArgument,
        ),
        (
            CreateDeploymentRequest {
                device_names: vec!["nobody".into()],
                ..base.clone()
            },
            Code::NotFound,
        ),
        (
            CreateDeploymentRequest {
                bundle: "app:9.9".into(),
                selector: "*".into(),
                ..base
            },
            Code::NotFound,
        ),
    ] {
        let refused = operator.deploy_for(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{request:?}: {refused}");
    }
}
