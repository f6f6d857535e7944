//! Operator tokens and the audit, from the shell.

use kernex_integration_tests::{
    Ctl, Database, TestServer, both_databases, ctl::CtlOutput, server, wait::seen, wait_for,
};
use kernex_proto::operator_token;
use serde_json::Value;

both_databases![
    a_token_is_made_used_seen_and_revoked_from_the_shell,
    a_name_has_one_working_token_and_some_names_are_reserved,
    the_audit_tells_who_did_what_from_where_and_who_was_refused,
    the_audit_of_a_thing_is_found_by_its_name,
    the_last_admin_token_that_works_cannot_be_revoked,
    who_has_the_secret_of_a_token_that_ended_learns_how_it_ended,
    the_admin_token_command_says_what_it_did_and_can_replace_the_first,
];

/// Runs `kernexctl` with another token.
fn with_token(server: &TestServer, ctl: &Ctl<'_>, token: &str, words: &[&str]) -> CtlOutput {
    let mut command = ctl.command(words);
    command
        .env("KERNEX_TOKEN", token)
        .env("KERNEX_SERVER", server.url())
        .env("KERNEX_CA", server.data().join("ca.pem"));
    command.output().expect("kernexctl can be started").into()
}

/// The text of a new token.
fn make(ctl: &Ctl<'_>, name: &str, role: &str) -> String {
    let text = ctl.ok(&["token", "create", name, "--role", role, "-o", "name"]);
    text.trim().to_owned()
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let all = list.as_array().expect("a list");
    let found = all.iter().find(|token| token["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

async fn a_token_is_made_used_seen_and_revoked_from_the_shell(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let text = make(&ctl, "ci", "operator");
    assert_eq!(operator_token::check(&text), Ok(()), "{text}");
    let tokens = ctl.json(&["token", "list"]);
    let ci = named(&tokens, "ci");
    assert_eq!(
        (&ci["role"], &ci["created_by"]),
        (&"operator".into(), &"admin".into())
    );
    assert!(ci["last_used_at"].is_null(), "{ci}");
    let admin = named(&tokens, "admin");
    assert_eq!(admin["last_used_from"], "127.0.0.1");

    let used = with_token(&server, &ctl, &text, &["device", "list"]);
    assert_eq!(used.code, Some(0), "{}", used.stderr);
    // The list also shows uses that are not written yet.
    let tokens = ctl.json(&["token", "list"]);
    let ci = named(&tokens, "ci");
    assert!(ci["last_used_at"].is_string(), "{ci}");
    assert_eq!(ci["last_used_from"], "127.0.0.1");
    let shown = ctl.ok(&["token", "list"]);
    assert!(!shown.contains(&text), "a secret is shown once");

    let _ = ctl.ok(&["token", "revoke", "ci", "--yes"]);
    let refused = with_token(&server, &ctl, &text, &["device", "list"]);
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    let working = ctl.json(&["token", "list"]);
    assert_eq!(working.as_array().map(Vec::len), Some(1), "{working}");
    let all = ctl.json(&["token", "list", "--all"]);
    assert!(named(&all, "ci")["revoked_at"].is_string(), "{all}");
    // The rows of the database have no secret either.
    let again = ctl.run(&["token", "revoke", "ci", "--yes"]);
    assert_eq!(again.code, Some(5), "{}", again.stderr);
}

async fn a_name_has_one_working_token_and_some_names_are_reserved(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    make(&ctl, "ci", "viewer");
    let create = |name: &str| ctl.run(&["token", "create", name, "--role", "viewer"]);
    let taken = create("ci");
    assert_eq!(taken.code, Some(5), "{}", taken.stderr);
    assert!(taken.stderr.contains("token revoke"), "{}", taken.stderr);
    for reserved in ["kernex", "kernex-server", "Kernex bot", "token 1", " ci"] {
        let refused = create(reserved);
        assert_eq!(refused.code, Some(2), "{reserved}: {}", refused.stderr);
    }
    // The name of a token that has ended is free.
    let _ = ctl.ok(&["token", "revoke", "ci", "--yes"]);
    make(&ctl, "ci", "viewer");
    // A token that was cut is recognised before the server is asked.
    let half = ctl.run(&[
        "context",
        "add",
        "x",
        "--server",
        &server.url(),
        "--ca",
        &server.data().join("ca.pem").to_string_lossy(),
        "--token",
        "kxo2_abc",
    ]);
    assert_eq!(half.code, Some(2), "{}", half.stderr);
    assert!(half.stderr.contains("not whole"), "{}", half.stderr);
}

async fn the_audit_tells_who_did_what_from_where_and_who_was_refused(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let looker = make(&ctl, "looker", "viewer");
    for _ in 0..3 {
        let denied = with_token(&server, &ctl, &looker, &["token", "list"]);
        assert_eq!(denied.code, Some(4), "{}", denied.stderr);
    }
    let _ = ctl.ok(&["token", "revoke", "looker", "--yes"]);
    for token in [looker.as_str(), "kxo1.guessed"] {
        let refused = with_token(&server, &ctl, token, &["device", "list"]);
        assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    }

    let audit = |words: &[&str]| ctl.json(&[&["audit", "list"], words].concat());
    let all = audit(&[]);
    let created = audit(&["--method", "CreateOperatorToken", "--by", "admin"]);
    let created = &created[0];
    assert_eq!(
        (&created["result"], &created["count"]),
        (&"ok".into(), &1.into())
    );
    assert_eq!(created["address"], "127.0.0.1");
    assert_eq!(created["detail"]["name"], "looker");
    let admin = ctl.json(&["token", "list"]);
    assert_eq!(created["token_id"], named(&admin, "admin")["id"]);
    assert!(created["at"].is_string() && created["request_id"].is_string());

    let denied = audit(&["--result", "denied"]);
    let denied = denied.as_array().expect("a list");
    assert!(
        denied.iter().all(|entry| entry["principal"] == "looker"),
        "{denied:?}"
    );
    assert!(
        denied
            .iter()
            .all(|entry| entry["method"] == "ListOperatorTokens")
    );
    let count: u64 = denied
        .iter()
        .filter_map(|entry| entry["count"].as_u64())
        .sum();
    assert_eq!(count, 3, "{denied:?}");

    let failed = audit(&["--result", "unauthenticated", "--since", "1h"]);
    let failed = failed.as_array().expect("a list");
    // A token that has ended is named; one that never existed is not.
    let whose: Vec<&str> = failed
        .iter()
        .filter_map(|entry| entry["principal"].as_str())
        .collect();
    assert!(
        whose.contains(&"looker") && whose.contains(&""),
        "{failed:?}"
    );
    assert!(
        failed.iter().all(|entry| entry["method"] == "ListDevices"),
        "{failed:?}"
    );

    // The newest come first, and a list that is cut says so.
    let ids: Vec<&str> = all
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["id"].as_str())
        .collect();
    assert!(
        ids.len() > 3 && ids.is_sorted_by(|one, next| one > next),
        "{ids:?}"
    );
    let cut = ctl.run(&["audit", "list", "--limit", "1"]);
    assert!(cut.stderr.contains("there are more"), "{}", cut.stderr);
    assert!(
        audit(&["--until", "1h"])
            .as_array()
            .is_some_and(Vec::is_empty)
    );
    let viewer = make(&ctl, "other", "operator");
    let refused = with_token(&server, &ctl, &viewer, &["audit", "list"]);
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
}

async fn the_audit_of_a_thing_is_found_by_its_name(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let operator = server.operator();
    server.raw_device("edge-1").await;
    server.raw_device("edge-2").await;
    operator.label("edge-1", &[("site", "berlin")]).await;
    operator.push_script("app", "1.0", "true").await;
    let _ = ctl.ok(&["config", "set", "all", "--to", "*", "--value", "A=1"]);
    let order = [
        "deploy", "app:1.0", "--device", "edge-1", "--name", "nightly",
    ];
    let _ = ctl.ok(&order);
    make(&ctl, "ci", "viewer");
    let _ = ctl.ok(&["token", "revoke", "ci", "--yes"]);
    make(&ctl, "ci", "viewer");
    let _ = ctl.ok(&["device", "delete", "edge-2", "--yes"]);

    let methods = |on: &str| {
        let entries = ctl.json(&["audit", "list", "--on", on]);
        let entries = entries.as_array().expect("a list").clone();
        let methods = entries.iter().filter_map(|entry| entry["method"].as_str());
        methods.map(str::to_owned).collect::<Vec<_>>()
    };
    for (name, expected) in [
        ("edge-1", &["UpdateDeviceLabels", "Enroll"][..]),
        // A device that is gone keeps its history.
        ("edge-2", &["DeleteDevice", "Enroll"]),
        ("nightly", &["CreateDeployment"]),
        (
            "ci",
            &[
                "CreateOperatorToken",
                "RevokeOperatorToken",
                "CreateOperatorToken",
            ],
        ),
        ("admin", &["FirstStart"]),
        ("all", &["SetConfiguration"]),
        ("nobody", &[]),
    ] {
        assert_eq!(methods(name), expected, "{name}");
    }
    // And entries say the name, where they have an id.
    for name in ["edge-1", "edge-2", "nightly", "ci"] {
        let entries = ctl.json(&["audit", "list", "--on", name]);
        let mut entries = entries.as_array().into_iter().flatten();
        assert!(entries.all(|entry| entry["subject_name"] == name), "{name}");
        let table = ctl.ok(&["audit", "list", "--on", name]);
        assert!(table.contains(name), "{table}");
    }
    let id = operator.device("edge-1").await.id;
    assert_eq!(methods(&id), methods("edge-1"));
    assert_eq!(methods(&id.to_uppercase()), methods("edge-1"));
}

async fn the_last_admin_token_that_works_cannot_be_revoked(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    make(&ctl, "helper", "operator");
    let refused = ctl.run(&["token", "revoke", "admin", "--yes"]);
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    for part in ["last admin token", "token create", "admin-token --replace"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    // Neither a token that has expired nor one that was revoked is another one.
    let gone = make(&ctl, "gone", "admin");
    let _ = ctl.ok(&["token", "revoke", "gone", "--yes"]);
    let short = [
        "token", "create", "short", "--role", "admin", "--ttl", "1s", "-o", "name",
    ];
    let short = ctl.ok(&short).trim().to_owned();
    wait_for("a token of a second to expire", || async {
        let used = with_token(&server, &ctl, &short, &["device", "list"]);
        seen(used.code == Some(4), used)
    })
    .await;
    let refused = ctl.run(&["token", "revoke", "admin", "--yes"]);
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    let used = with_token(&server, &ctl, &gone, &["device", "list"]);
    assert_eq!(used.code, Some(4), "{}", used.stderr);

    let other = make(&ctl, "other", "admin");
    let _ = ctl.ok(&["token", "revoke", "admin", "--yes"]);
    let refused = with_token(
        &server,
        &ctl,
        &other,
        &["token", "revoke", "other", "--yes"],
    );
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    let used = with_token(&server, &ctl, &other, &["token", "list"]);
    assert_eq!(used.code, Some(0), "{}", used.stderr);
}

async fn who_has_the_secret_of_a_token_that_ended_learns_how_it_ended(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let revoked = make(&ctl, "ci", "viewer");
    let _ = ctl.ok(&["token", "revoke", "ci", "--yes"]);
    let short = [
        "token", "create", "brief", "--role", "viewer", "--ttl", "1s", "-o", "name",
    ];
    let expired = ctl.ok(&short).trim().to_owned();
    let (unknown, _) = kernex_server::api::access::operator_token();
    wait_for("a token of a second to expire", || async {
        let used = with_token(&server, &ctl, &expired, &["device", "list"]);
        seen(used.code == Some(4), used)
    })
    .await;
    for (token, said, unsaid) in [
        (
            &revoked,
            "the operator token `ci` was revoked at",
            "expired",
        ),
        (&expired, "the operator token `brief` expired at", "revoked"),
        (&unknown, "not authenticated", "operator token"),
    ] {
        let refused = with_token(&server, &ctl, token, &["device", "list"]);
        assert_eq!(refused.code, Some(4), "{}", refused.stderr);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
        assert!(!refused.stderr.contains(unsaid), "{}", refused.stderr);
    }
}

async fn the_admin_token_command_says_what_it_did_and_can_replace_the_first(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let file = server.data().join("admin.token");
    let text = || {
        std::fs::read_to_string(&file)
            .expect("a token")
            .trim()
            .to_owned()
    };
    let admin_token = |words: &[&str]| -> CtlOutput {
        let mut command = server::command("admin-token");
        command.arg("--data-dir").arg(server.data()).args(words);
        if let Some(url) = server.database_url() {
            command.env("KERNEX_DATABASE_URL", url);
        }
        command.output().expect("it can be started").into()
    };
    let first = text();
    let another = admin_token(&[]);
    assert_eq!(another.code, Some(0), "{}", another.stderr);
    let second = text();
    assert_ne!(first, second);
    assert!(another.stdout.contains("`admin-2`"), "{}", another.stdout);
    assert!(
        another.stdout.contains("`admin`") && another.stdout.contains("still works"),
        "{}",
        another.stdout
    );
    for token in [&first, &second] {
        let used = with_token(&server, &ctl, token, &["device", "list"]);
        assert_eq!(used.code, Some(0), "{}", used.stderr);
    }

    let replaced = admin_token(&["--replace"]);
    assert_eq!(replaced.code, Some(0), "{}", replaced.stderr);
    assert!(
        replaced.stdout.contains("is revoked"),
        "{}",
        replaced.stdout
    );
    let third = text();
    let used = with_token(&server, &ctl, &third, &["token", "list", "-o", "json"]);
    assert_eq!(used.code, Some(0), "{}", used.stderr);
    let list: Value = serde_json::from_str(&used.stdout).expect("JSON");
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(list[0]["name"], "admin");
    // The running server knows the new token at once.
    for token in [&first, &second] {
        wait_for("the replaced token to be refused", || async {
            let used = with_token(&server, &ctl, token, &["device", "list"]);
            seen(used.code == Some(4), used)
        })
        .await;
    }
    // A folder that cannot be written gives one sentence and no token.
    let nowhere = server::command("admin-token")
        .args(["--data-dir", "/does/not/exist"])
        .output()
        .expect("it can be started");
    assert!(!nowhere.status.success());
}
