use super::*;

fn from_flags(flags: &[&str]) -> Options {
    let typed = ["kernex-server", "serve"].iter().chain(flags);
    match Cli::try_parse_from(typed).expect("flags parse").command {
        Command::Serve(options) => options,
        other => panic!("{other:?}"),
    }
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("kernex.toml");
    std::fs::write(
        &file,
        "listen = \"127.0.0.1:1\"\nheartbeat_interval = \"5s\"\npublic_address = [\"a.example\"]\nmax_uploads_per_token = 9\n",
    )
    .expect("written");
    let path = file.to_str().expect("utf-8");
    let config = Config::resolve(from_flags(&["--config", path, "--listen", "127.0.0.1:2"]))
        .expect("resolves");
    assert_eq!(config.network.listen.port(), 2);
    assert_eq!(config.heartbeat_interval, Duration::from_secs(5));
    assert_eq!(config.network.public_addresses, ["a.example"]);
    let most = config.answers.most;
    assert_eq!((most.streams, most.uploads, most.plans), (16, 9, 2));
    assert!(
        config
            .network
            .metrics_listen
            .is_some_and(|at| at.ip().is_loopback())
    );
    assert_eq!(config.bundles.max_size, DEFAULT_MAX_BUNDLE_SIZE);
}

#[test]
fn a_server_is_named_after_what_it_was_told_and_where_it_listens() {
    let names = |flags: &[&str]| {
        let config = Config::resolve(from_flags(flags)).expect("resolves");
        config.network.names()
    };
    assert_eq!(names(&["--listen", "0.0.0.0:1"]), [""; 0]);
    assert_eq!(names(&["--listen", "[::]:1"]), [""; 0]);
    assert_eq!(names(&["--listen", "10.2.3.4:1"]), ["10.2.3.4"]);
    let both = [
        "--listen",
        "[2001:db8::1]:1",
        "--public-address",
        "k.example",
    ];
    assert_eq!(names(&both), ["k.example", "2001:db8::1"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "tls_cert = \"c.pem\"\n").expect("written");
    let path = file.path().to_str().expect("utf-8");
    let half = Config::resolve(from_flags(&["--config", path])).expect_err("has no key");
    assert!(half.to_string().contains("--tls-key"), "{half}");
}

#[test]
fn proxies_are_addresses_and_networks() {
    let flags = [
        "--trusted-proxies",
        "10.0.0.7,192.0.2.0/24",
        "--trusted-proxies",
        "2001:db8::/32",
    ];
    let config = Config::resolve(from_flags(&flags)).expect("resolves");
    let shown: Vec<_> = config
        .network
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(shown, ["10.0.0.7/32", "192.0.2.0/24", "2001:db8::/32"]);
    assert_eq!(config.network.strangers.max_per_source, DEFAULT_STRANGERS);
    assert!(!config.network.open_reflection);
}

#[test]
fn mistakes_are_one_clear_sentence() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("kernex.toml");
    std::fs::write(&file, "lisen = \"x\"\n").expect("written");
    let path = file.to_str().expect("utf-8");
    for (flags, part) in [
        (vec!["--listen", "here"], "ADDRESS:PORT"),
        (vec!["--metrics-listen", "9090"], "turn it off"),
        (vec!["--max-bundle-size", "4 parsecs"], "4GiB"),
        (vec!["--max-unpacked-size", "0"], "64GiB"),
        (vec!["--max-bundle-entries", "0"], "at least 1"),
        (vec!["--max-compression-ratio", "0"], "at least 1"),
        (vec!["--heartbeat-interval", "1ms"], "100ms"),
        (vec!["--max-streams-per-token", "0"], "at least 1"),
        (vec!["--max-uploads-per-token", "0"], "at least 1"),
        (vec!["--max-plans-per-token", "0"], "at least 1"),
        (vec!["--stall-limit", "1ms"], "100ms"),
        (vec!["--audit-retention", "5m"], "365d"),
        (vec!["--database-url", "mysql://u:p@h/d"], "postgres://"),
        (vec!["--public-address", "http://x:1"], "without port"),
        (vec!["--trusted-proxies", "10.0.0.0/40"], "10.0.0.0/8"),
        (vec!["--probation", "5ms"], "15s"),
        (vec!["--plaintext"], "loopback"),
        (
            vec![
                "--listen=127.0.0.1:1",
                "--plaintext",
                "--tls-cert=a",
                "--tls-key=b",
            ],
            "--plaintext needs neither",
        ),
        (vec!["--config", "/does/not/exist"], "cannot read"),
        (vec!["--config", path], "did you mean `listen`?"),
    ] {
        let error = Config::resolve(from_flags(&flags))
            .expect_err(part)
            .to_string();
        assert!(error.contains(part), "{error}");
        assert!(!error.contains('\n'), "{error}");
        assert!(!error.contains("u:p"), "a password was shown: {error}");
    }
}

#[test]
fn a_variable_that_looks_like_a_setting_is_told() {
    let names = [
        "KERNEX_LISTEN",
        "KERNEX_LISEN",
        "KERNEX_CONFIG",
        "KERNEX_AGENT_NAME",
        "KERNEX_TOKEN",
        "KERNEX_OUR_OWN_THING",
        "PATH",
        "KERNEX_SERVER_SERVICE_HOST",
        "KERNEX_SERVER_SERVICE_PORT_GRPC",
        "KERNEX_SERVER_PORT_7443_TCP_ADDR",
    ];
    let said: Vec<String> = strange_variables(names.map(OsString::from).into_iter())
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        said,
        [
            "`KERNEX_LISEN` is no setting; did you mean `KERNEX_LISTEN`?",
            "`KERNEX_OUR_OWN_THING` is no setting",
        ]
    );
}

/// The list of names for the file comes from the flags.
#[test]
fn the_file_knows_each_setting() {
    for name in values::settings(|argument| Some(argument.get_id().as_str().to_owned())) {
        let error = toml::from_str::<Values>(&format!("{name} = {{}}")).expect_err(&name);
        let why = error.to_string();
        assert!(!why.contains("unknown field"), "{why}");
    }
}
