//! Selectors: built-in labels, and how a mistake is shown.

use kernex_integration_tests::{AgentOptions, Ctl, Database, TestServer, both_databases};
use kernex_proto::v1::{ListDevicesRequest, UpdateDeviceLabelsRequest};
use tonic::Code;
use tonic_types::StatusExt as _;

both_databases![
    built_in_labels_come_from_the_inventory_of_the_device,
    built_in_labels_cannot_be_set,
    a_mistake_in_a_selector_is_marked_under_its_character,
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
    // A configuration means devices in the same words.
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
