//! Without the feature `dev` the program is small and portable: no server, no agent, no SQLite.

use std::process::Command;

/// Names of all packages the program is built from.
fn packages(features: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", "kernexctl"])
        .args(["--edges", "normal,build", "--prefix", "none"])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

const HEAVY: [&str; 7] = [
    "kernex-server",
    "kernex-agent",
    "sea-orm",
    "sqlx",
    "sqlx-core",
    "libsqlite3-sys",
    "redb",
];

#[test]
fn without_dev_there_is_no_server_no_agent_and_no_sqlite() {
    let small = packages(&["--no-default-features"]);
    let has = |name: &str| small.iter().any(|package| package == name);
    assert!(has("kernex-proto"), "{small:?}");
    for name in HEAVY {
        assert!(!has(name), "{name} is among {small:?}");
    }
}

#[test]
fn dev_is_part_of_the_usual_build_and_brings_them_all() {
    let all = packages(&[]);
    for name in HEAVY {
        assert!(all.iter().any(|package| package == name), "{name}");
    }
}

#[cfg(not(feature = "dev"))]
#[test]
fn dev_says_that_it_is_not_part_of_a_small_build() {
    let output = Command::new(env!("CARGO_BIN_EXE_kernexctl"))
        .args(["dev", "--once"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("built without `dev`") && said.contains("next: "),
        "{said}"
    );
}
