//! What is refused, and what is noted, before a bundle is kept.

use serde_json::{Value, json};
use tokio_tar::EntryType;

use super::{making::Tar, *};

fn with(manifest: Value) -> Tar {
    let mut manifest = manifest;
    if manifest.get("version").is_none() {
        manifest["version"] = json!("1");
    }
    Tar::default().file("manifest.json", manifest.to_string().as_bytes())
}

async fn check(tar: Tar, allow_unknown: bool) -> Result<Checked, ArchiveError> {
    check_upload(&tar.gz().await[..], &Limits::default(), allow_unknown).await
}

/// The sentences it is refused with; the agent takes it all the same.
async fn mistakes(tar: Tar) -> Vec<String> {
    look(&tar.clone().gz().await).await.unwrap();
    let error = check(tar, false).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Mistaken(_)), "{error}");
    assert_eq!(error.failure_reason(), v1::FailureReason::ManifestInvalid);
    let found = error.findings().unwrap().kept();
    assert!(found.iter().all(|finding| finding.way_out.len() > 10));
    found.iter().map(ToString::to_string).collect()
}

async fn notes(tar: Tar) -> Vec<String> {
    let checked = check(tar, false).await.unwrap();
    checked.notes.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn mistyped_names_are_refused_all_at_once_and_others_are_noted() {
    let tar = with(json!({
        "deploy": {"scirpt": "./run.sh"}, "healthcheck": {"tcp": "a:1"}, "team": "edge"
    }));
    assert_eq!(
        mistakes(tar.clone()).await,
        [
            "`healthcheck` is no field that Kernex knows; did you mean `health`?",
            "`deploy.scirpt` is no field that Kernex knows; did you mean `deploy.script`?",
        ]
    );
    let checked = check(tar, true).await.unwrap();
    assert_eq!(checked.notes.len(), 3);
    assert_eq!(
        notes(with(json!({"team": "edge", "$schema": "x"}))).await,
        ["`team` is no field that Kernex knows"]
    );
}

#[tokio::test]
async fn an_invalid_field_is_told_together_with_mistyped_ones() {
    let tar = with(json!({"deploy": {"timeout_seconds": 0, "scirpt": "x"}}));
    let error = check(tar, false).await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("`deploy.timeout_seconds` must be 1") && said.contains("`deploy.scirpt`"),
        "{said}"
    );
    let error = check(with(json!({"deploy": []})), false).await.unwrap_err();
    assert!(matches!(error, ArchiveError::ManifestInvalid(_)), "{error}");
}

#[tokio::test]
async fn scripts_that_are_not_there_are_named() {
    let tar = with(json!({
        "deploy": {"script": "./instal.sh"}, "hooks": {"pre": "bin/check", "post": "./later --now"}
    }))
    .file("install.sh", b"echo\n");
    let error = check(tar.clone(), false).await.unwrap_err();
    assert_eq!(
        mistakes(tar).await,
        [
            "`hooks.pre` names `bin/check`, which is not in the archive",
            "`deploy.script` names `./instal.sh`, which is not in the archive; did you mean `./install.sh`?",
        ]
    );
    let ways = error.findings().unwrap().ways_out();
    assert!(ways.iter().any(|way| way.contains("`exec`")), "{ways:?}");
    // The way out works, and what an earlier script may make is only noted.
    let tar = with(json!({
        "deploy": {"script": "exec ./instal.sh"}, "hooks": {"post": "./later --now"}
    }));
    assert_eq!(
        notes(tar).await,
        ["`hooks.post` names `./later`, which is not in the archive"]
    );
    let linked = with(json!({"deploy": {"script": "./run"}})).symlink("run", "bin/run");
    assert_eq!(notes(linked).await.len(), 0);
}

#[tokio::test]
async fn windows_line_ends_and_missing_bits_of_scripts_are_told() {
    let tar = with(json!({"deploy": {"script": "./run.sh"}, "rollback": {"script": "sh back.sh"}}))
        .file("run.sh", b"#!/bin/sh\r\necho\r\n")
        .file("back.sh", b"echo\r\n")
        .file("data.txt", b"a\r\n");
    let said = mistakes(tar).await;
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("`./run.sh`, which has Windows line ends"));
    assert!(said[1].contains("`rollback.script` runs `back.sh`"));

    let inline = with(json!({"deploy": {"script": "mkdir a\r\ntouch b\r\n"}}));
    assert!(mistakes(inline).await[0].contains("Windows line ends"));

    let tar = with(json!({"deploy": {"script": "install.py"}, "hooks": {"post": "./go.sh now"}}))
        .file("install.py", b"#!/usr/bin/python3\n")
        .file("go.sh", b"echo\n");
    let said = notes(tar).await;
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("#!") && said[1].contains("will not run it"));
    let good = with(json!({"deploy": {"script": "run"}})).entry(
        EntryType::Regular,
        "run",
        "",
        0o755,
        b"#!/bin/sh\n",
    );
    assert_eq!(notes(good).await.len(), 0);
}

#[tokio::test]
async fn names_that_some_disks_take_for_one_are_noted() {
    let tar = with(json!({}))
        .file("d/README", b"")
        .file("d/readme", b"")
        .file("gr\u{fc}n", b"")
        .file("gru\u{308}n", b"")
        .file("e/README", b"");
    let said = notes(tar).await;
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("`d/README`") && said[0].contains("differ"));
}

#[tokio::test]
async fn mistakes_are_told_together_with_refused_entries() {
    let tar = with(json!({"helth": {}})).symlink("a", "/etc");
    let error = check(tar, false).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Unsafe(_)), "{error}");
    let said = error.to_string();
    assert!(said.contains("`a`") && said.contains("`helth`"), "{said}");
}
