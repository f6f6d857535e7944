//! Who wins when several say which server to use, and that secrets stay private.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn contexts() -> Contexts {
    let context = |server: &str| Context {
        server: server.into(),
        token: format!("token of {server}"),
        ca: None,
        dev_process: None,
    };
    Contexts {
        current: Some("a".into()),
        contexts: [
            ("a".into(), context("https://a")),
            ("b".into(), context("https://b")),
        ]
        .into(),
    }
}

fn env(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
    move |name| {
        pairs
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    }
}

#[test]
fn what_is_typed_wins_over_the_environment_and_that_over_the_file() {
    let server = |typed, pairs| {
        resolve(typed, &env(pairs), &contexts())
            .map(|c| c.server)
            .unwrap()
    };
    const ALL: &[(&str, &str)] = &[
        ("KERNEX_SERVER", "https://c"),
        ("KERNEX_TOKEN", "t"),
        ("KERNEX_CONTEXT", "b"),
    ];
    assert_eq!(server(None, &[]), "https://a");
    assert_eq!(server(None, &[("KERNEX_CONTEXT", "b")]), "https://b");
    assert_eq!(server(None, ALL), "https://c");
    assert_eq!(server(Some("a"), ALL), "https://a");
}

#[test]
fn a_token_never_travels_to_another_server() {
    let wrong = resolve(None, &env(&[("KERNEX_SERVER", "https://c")]), &contexts());
    assert_eq!(wrong.err().map(|f| f.exit), Some(Exit::Usage));
    let typed = resolve(Some("a"), &env(&[("KERNEX_TOKEN", "other")]), &contexts());
    assert_eq!(typed.ok().unwrap().token, "token of https://a");
}

#[test]
fn contexts_that_are_not_there_are_said_so() {
    let missing = resolve(Some("x"), &env(&[]), &contexts()).err().unwrap();
    assert_eq!(missing.exit, Exit::NotFoundOrConflict);
    let none = resolve(None, &env(&[]), &Contexts::default())
        .err()
        .unwrap();
    assert!(none.next.contains("kernexctl dev"));
}

#[test]
fn server_urls_are_checked() {
    assert_eq!(
        check_server("kernex.example:7443").unwrap(),
        "https://kernex.example:7443"
    );
    assert_eq!(check_server("https://h:1/").unwrap(), "https://h:1");
    assert_eq!(
        check_server("http://127.0.0.1:1").unwrap(),
        "http://127.0.0.1:1"
    );
    for bad in [
        "http://example.org",
        "ftp://h",
        "https://h/x",
        "",
        "https://",
        "not a url",
    ] {
        assert!(check_server(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_file_and_its_folder_are_private() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("kernex/config.toml");
    let file = ConfigFile {
        path: path.clone(),
        own_folder: true,
    };
    assert!(file.read().unwrap() == Contexts::default());
    file.change(|all| {
        *all = contexts();
        Ok(())
    })
    .unwrap();
    assert!(file.read().unwrap() == contexts());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);

    file.change(|all| {
        *all = Contexts::default();
        Ok(())
    })
    .unwrap();
    assert!(!path.parent().unwrap().exists());
}

#[test]
fn a_broken_file_is_named_without_its_secrets() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("config.toml");
    fs::write(&path, "[contexts.a]\nserver = 1\ntoken = \"secret\"\n").unwrap();
    let failure = ConfigFile {
        path,
        own_folder: true,
    }
    .read()
    .err()
    .unwrap();
    assert!(failure.message.contains("config.toml"));
    assert!(!failure.message.contains("secret"));
}
