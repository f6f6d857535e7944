//! What is accepted, what is refused and in which words, and that the published schema says the
//! same.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const FULL: &str = r#"{
    "name": "app", "version": "1.0.0+3",
    "deploy": {"script": "./run.sh", "timeout_seconds": 60},
    "hooks": {"pre": "true", "post": "systemctl restart app", "retry_seconds": 30},
    "health": {"http": "http://127.0.0.1:8080/health", "initial_delay_seconds": 1, "interval_seconds": 2,
        "timeout_seconds": 3, "retries": 4, "hold_seconds": 5},
    "rollback": {"script": "./back.sh"},
    "env": {"MODE": "fast"},
    "requires": {"os": "linux", "arch": ["x86_64", "aarch64"], "disk_bytes": 1000},
    "restart": "expected", "links": "any", "no_new_privs": false
}"#;

fn refusal(value: Value) -> String {
    Manifest::parse(value.to_string().as_bytes())
        .unwrap_err()
        .to_string()
}

#[test]
fn a_version_is_enough() {
    let manifest = Manifest::parse(br#"{"version": "1.0"}"#).unwrap();
    assert_eq!(manifest.name_or_default(), "default");
    assert_eq!(manifest.script(), None);
    assert_eq!(
        manifest.timeout(),
        Duration::from_secs(DEFAULT_TIMEOUT_SECONDS)
    );
    assert!(manifest.requires.check("linux", "mips", 0).is_ok());
}

#[test]
fn everything_is_read() {
    let manifest = Manifest::parse(FULL.as_bytes()).unwrap();
    assert_eq!(manifest.name_or_default(), "app");
    assert_eq!(manifest.script(), Some("./run.sh"));
    assert_eq!(manifest.rollback_script(), Some("./back.sh"));
    assert_eq!(manifest.timeout(), Duration::from_secs(60));
    assert_eq!(manifest.hooks.pre.as_deref(), Some("true"));
    assert_eq!(manifest.env["MODE"], "fast");
    assert_eq!(manifest.restart, Some(Restart::Expected));
    assert_eq!(manifest.retry_after(), Duration::from_secs(30));
    assert!(manifest.allows_any_link() && manifest.allows_new_privs());
    let scripts: Vec<_> = manifest.scripts().map(|(field, _)| field).collect();
    assert_eq!(
        scripts,
        [
            "hooks.pre",
            "deploy.script",
            "hooks.post",
            "rollback.script"
        ]
    );
    let health = manifest.health.unwrap();
    assert_eq!(
        health.probe,
        Probe::Http("http://127.0.0.1:8080/health".to_owned())
    );
    assert_eq!(
        [
            health.initial_delay(),
            health.interval(),
            health.timeout(),
            health.hold()
        ],
        [1, 2, 3, 5].map(Duration::from_secs)
    );
    assert_eq!(health.retries, 4);
}

#[test]
fn unknown_fields_are_kept() {
    let manifest =
        Manifest::parse(br#"{"version": "1", "later": {"command": "x"}, "deploy": {"new": 1}}"#)
            .unwrap();
    assert_eq!(manifest.extra["later"], json!({"command": "x"}));
    assert_eq!(
        serde_json::to_value(&manifest).unwrap()["later"],
        json!({"command": "x"})
    );
}

#[test]
fn null_counts_as_absent_and_a_byte_order_mark_is_passed_over() {
    let text = "\u{feff}{\"version\": \"1\", \"name\": null, \"deploy\": null, \"env\": null}";
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!((manifest.name, manifest.deploy), (None, None));
}

#[test]
fn refusals_name_the_field_and_say_why() {
    let with = |field: &str, value: Value| {
        let mut manifest = json!({"version": "1"});
        manifest[field] = value;
        refusal(manifest)
    };
    assert_eq!(refusal(json!({})), "manifest.json: `version` is missing");
    assert_eq!(
        refusal(json!([])),
        "manifest.json: the file must hold an object, not a list"
    );
    assert_eq!(
        with("version", json!(1)),
        "manifest.json: `version` must be text, not a number"
    );
    assert!(with("version", json!("../1")).contains("`version` must be 1 to 100"));
    assert!(with("name", json!("a/b")).contains("`name` must be 1 to 100"));
    assert_eq!(
        with("deploy", json!("run.sh")),
        "manifest.json: `deploy` must be an object, not text"
    );
    assert!(
        with("deploy", json!({"timeout_seconds": 0}))
            .contains("`deploy.timeout_seconds` must be 1")
    );
    assert!(with("deploy", json!({"timeout_seconds": -1})).contains("not negative"));
    assert!(with("deploy", json!({"script": " "})).contains("`deploy.script` must not be empty"));
    assert!(with("hooks", json!({"pre": ["a"]})).contains("`hooks.pre` must be text, not a list"));
    assert!(with("env", json!({"A": 1})).contains("`env.A` must be text"));
    assert!(with("env", json!({"A=B": "1"})).contains("`env.A=B` is not a name"));
    assert!(with("requires", json!({"os": []})).contains("`requires.os` must not be empty"));
    assert!(with("requires", json!({"arch": [1]})).contains("`requires.arch`"));
    assert!(with("requires", json!({"disk_bytes": "1G"})).contains("must be a number, not text"));
    let health = |value: Value| with("health", value);
    for none_or_two in [
        json!({}),
        json!({"tcp": "a:1", "command": "true"}),
        json!({"interval_seconds": 1}),
    ] {
        assert!(health(none_or_two).contains("`health` must have exactly one of"));
    }
    for tcp in ["8080", "a:b", ":80", "a:0", "http://a:80/x", "a:70000"] {
        assert!(health(json!({"tcp": tcp})).contains("`health.tcp` must be `host:port`"));
    }
    for http in ["/health", "ftp://a/b", "http://", "127.0.0.1:80", "x y"] {
        assert!(health(json!({"http": http})).contains("`health.http` must be an address"));
    }
    assert!(health(json!({"http": "https://a/"})).contains("certificates"));
    for field in ["interval_seconds", "timeout_seconds"] {
        assert!(
            health(json!({"tcp": "a:1", field: 0})).contains(field),
            "{field}"
        );
    }
    assert!(health(json!({"tcp": "a:1", "retries": 10_001})).contains("must be 0 to 10000"));
    assert!(with("hooks", json!({"retry_seconds": 0})).contains("`hooks.retry_seconds`"));
    assert!(with("restart", json!("never")).contains("`restart` must be `expected`"));
    assert!(with("links", json!("all")).contains("`links` must be `inside` or `any`"));
    assert!(with("no_new_privs", json!("no")).contains("must be true or false, not text"));
    assert!(refusal(json!({"verison": "1"})).contains("missing; is `verison` meant to be it?"));
}

#[test]
fn a_file_that_is_not_json_or_too_large_is_refused() {
    let error = Manifest::parse(b"{").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("manifest.json: this is not JSON")
    );
    let large = vec![b' '; MAX_MANIFEST_BYTES + 1];
    assert!(Manifest::parse(&large).unwrap_err().why.contains("larger"));
}

#[test]
fn requirements_are_compared_under_their_usual_names() {
    let requires = Manifest::parse(FULL.as_bytes()).unwrap().requires;
    assert!(requires.check("linux", "arm64", 1000).is_ok());
    assert!(requires.check("Linux", "x86_64", 5000).is_ok());
    assert_eq!(
        requires
            .check("linux", "riscv64", 1000)
            .unwrap_err()
            .to_string(),
        "the bundle requires arch x86_64 or aarch64, this device has riscv64"
    );
    assert_eq!(
        requires.check("linux", "x86_64", 999).unwrap_err().field,
        "disk_bytes"
    );
}

#[test]
fn the_table_and_the_code_know_the_same_fields() {
    let mut full: Value = serde_json::from_str(FULL).unwrap();
    // What is in the table is read: a value of a kind that no field has is refused.
    for field in table::FIELDS {
        let mut manifest = full.clone();
        manifest["health"] = json!({"command": "true"});
        match field.parent() {
            "" => manifest[field.path] = json!([[]]),
            parent => manifest[parent][field.name()] = json!([[]]),
        }
        let why = refusal(manifest);
        assert!(why.contains(&format!("`{}` ", field.path)), "{why}");
    }
    // What is read is in the table.
    full["health"]["command"] = json!("true");
    full["health"]["tcp"] = json!("localhost:1");
    assert_eq!(unknown_fields(&full), []);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Manifest::parse(&bytes);
    }

    #[test]
    fn what_was_accepted_survives_writing(version in "[a-z0-9][a-z0-9.+~_-]{0,20}", script in "[ -~]{1,40}", seconds in 1..=MAX_TIMEOUT_SECONDS) {
        let value = json!({"version": version, "deploy": {"script": script, "timeout_seconds": seconds}});
        if let Ok(manifest) = Manifest::try_from(value) {
            let again = Manifest::parse(&serde_json::to_vec(&manifest).unwrap());
            prop_assert_eq!(again, Ok(manifest));
        }
    }

    #[test]
    fn an_accepted_version_is_one_path_component(version in any::<String>()) {
        if let Ok(manifest) = Manifest::try_from(json!({"version": version})) {
            prop_assert!(!manifest.version.contains('/') && !manifest.version.starts_with('.'));
        }
    }
}
