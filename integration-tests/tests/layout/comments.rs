//! Comments and prose are no wider than code.

use std::{fs, path::Path, process::Command};

use super::top;

/// Columns of a line, in code as in comments and in documents.
const WIDTH: usize = 100;

/// What a comment begins with in a file of this name; `None` where there are none.
fn marker(path: &str) -> Option<&'static str> {
    match Path::new(path).extension().and_then(|end| end.to_str()) {
        Some("rs" | "proto" | "js" | "ts" | "go" | "mod") => Some("//"),
        Some("md" | "json" | "lock" | "binpb") => None,
        _ => Some("#"),
    }
}

fn is_too_wide(line: &str) -> bool {
    line.chars().count() > WIDTH
}

/// Numbers of the lines whose comment is too wide.
fn wide_comments(source: &str, marker: &str) -> Vec<usize> {
    let lines = source.lines().zip(1..);
    let wide = lines.filter(|(line, _)| line.trim_start().starts_with(marker) && is_too_wide(line));
    wide.map(|(_, number)| number).collect()
}

/// Numbers of the lines of a document that are too wide. Tables and code are as wide as they have
/// to be, and one long word, such as an address, cannot be broken.
fn wide_prose(document: &str) -> Vec<usize> {
    let mut wide = Vec::new();
    let mut is_code = false;
    for (line, number) in document.lines().zip(1..) {
        let text = line.trim_start();
        if text.starts_with("```") {
            is_code = !is_code;
        } else if !is_code && !text.starts_with('|') && text.contains(' ') && is_too_wide(line) {
            wide.push(number);
        }
    }
    wide
}

/// Text files of the repository with their contents, also those that are not added yet.
fn files() -> Vec<(String, String)> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(top())
        .output()
        .expect("git runs");
    assert!(listed.status.success(), "git knows the files: {listed:?}");
    let names = String::from_utf8(listed.stdout).expect("names in UTF-8");
    let names = names.split('\0').filter(|name| !name.is_empty());
    // What was deleted and not committed is listed, too.
    let read = |name: &str| Some((name.to_owned(), fs::read_to_string(top().join(name)).ok()?));
    let files: Vec<_> = names.filter_map(read).collect();
    assert!(files.len() > 500, "the files were found: {}", files.len());
    files
}

#[test]
fn comments_are_no_wider_than_code() {
    let mut wide = Vec::new();
    for (path, source) in files() {
        let Some(marker) = marker(&path) else {
            continue;
        };
        let numbers = wide_comments(&source, marker).into_iter();
        wide.extend(numbers.map(|number| format!("{path}:{number}")));
    }
    assert!(wide.is_empty(), "comments past {WIDTH} columns: {wide:#?}");
}

#[test]
fn documents_are_no_wider_than_code() {
    let mut wide = Vec::new();
    for (path, document) in files() {
        if path.ends_with(".md") {
            let numbers = wide_prose(&document).into_iter();
            wide.extend(numbers.map(|number| format!("{path}:{number}")));
        }
    }
    assert!(wide.is_empty(), "prose past {WIDTH} columns: {wide:#?}");
}

#[test]
fn the_width_of_a_comment_counts_its_indentation() {
    let wide = "x".repeat(WIDTH);
    let found = |line: String, marker| !wide_comments(&line, marker).is_empty();
    assert!(found(format!("    /// {wide}"), "//"));
    assert!(!found(format!("// {}", &wide[3..]), "//"));
    assert!(!found(format!("let text = \"{wide}\";"), "//"));
    assert!(found(format!("  # {wide}"), "#"));
    assert!(!found(format!("echo {wide}"), "#"));
    for (path, expected) in [
        ("cli/src/main.rs", Some("//")),
        ("clients/node/index.js", Some("//")),
        ("Cargo.toml", Some("#")),
        (".ci/run", Some("#")),
        ("deploy/systemd/kernex-agent.service", Some("#")),
        ("README.md", None),
    ] {
        assert_eq!(marker(path), expected, "{path}");
    }
}

#[test]
fn tables_code_and_long_words_of_documents_may_be_wide() {
    let word = "x".repeat(WIDTH);
    let document = format!(
        "wide {word}\n| wide {word} |\n```sh\nwide {word}\n```\n* wide {word}\n{word}x\nnarrow\n"
    );
    assert_eq!(wide_prose(&document), [1, 6]);
}
