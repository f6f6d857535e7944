//! Mistakes that people make with bundles and settings: told before anything is kept, all at once,
//! with a way out that works.

use std::{fs, path::Path, process::Command};

use kernex_integration_tests::{
    BundleBuilder, Ctl, Database, ServerOptions, TestServer, agent::bare_command, binaries,
    both_databases, refusal::reason,
};
use kernex_proto::{
    error::Reason,
    v1::{
        AttemptState, UploadBegin, UploadBundleRequest, UploadBundleResponse,
        upload_bundle_request::Message,
    },
};
use serde_json::json;
use tonic::{Code, Status};

both_databases![
    a_mistyped_manifest_is_refused_with_what_was_meant,
    the_server_has_limits_for_what_a_bundle_may_hold,
    deploying_a_folder_again_deploys_the_same_bundle,
];

async fn upload(
    server: &TestServer,
    archive: &[u8],
    allow_unknown: bool,
) -> Result<UploadBundleResponse, Status> {
    let begin = UploadBegin {
        allow_unknown,
        ..UploadBegin::default()
    };
    let messages = [
        Message::Begin(begin),
        Message::Chunk(archive.to_vec().into()),
    ];
    let messages = messages.map(|message| UploadBundleRequest {
        message: Some(message),
    });
    let mut bundles = server.operator().bundles();
    let answer = bundles.upload_bundle(tokio_stream::iter(messages)).await?;
    Ok(answer.into_inner())
}

async fn a_mistyped_manifest_is_refused_with_what_was_meant(database: Database) {
    let server = TestServer::start(database).await;
    let manifest = json!({
        "name": "app", "version": "1.0", "team": "edge",
        "deploy": {"scirpt": "./run.sh"}, "healthcheck": {"tcp": "localhost:1"},
        "hooks": {"post": "./restrat.sh"},
    });
    let archive = BundleBuilder::with_manifest(&manifest)
        .file("restart.sh", "echo\n")
        .gzip()
        .await;
    let refused = upload(&server, &archive, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(reason(&refused), Some(Reason::ManifestInvalid));
    for part in [
        "did you mean `deploy.script`?",
        "did you mean `health`?",
        "did you mean `./restart.sh`?",
        "--allow-unknown",
    ] {
        assert!(refused.message().contains(part), "{refused}");
    }
    assert!(server.blobs().is_empty(), "{:?}", server.blobs());

    let manifest = json!({
        "name": "app", "version": "1.0", "team": "edge", "deploy": {"scirpt": "./run.sh"},
    });
    let archive = BundleBuilder::with_manifest(&manifest).gzip().await;
    let kept = upload(&server, &archive, true).await.unwrap();
    assert!(kept.notes.iter().any(|note| note.contains("`team`")));
    assert!(
        kept.notes
            .iter()
            .any(|note| note.contains("`deploy.scirpt`"))
    );
    let stored = kept.bundle.unwrap().manifest_json;
    assert!(stored.contains("scirpt"), "kept as it is: {stored}");
}

async fn the_server_has_limits_for_what_a_bundle_may_hold(database: Database) {
    let options = ServerOptions::default()
        .env("KERNEX_MAX_UNPACKED_SIZE", "1MiB")
        .env("KERNEX_MAX_BUNDLE_ENTRIES", "3");
    let server = TestServer::start_with(database, options).await;
    let operator = server.operator();
    let good = || BundleBuilder::script("app", "1.0", "true");
    for (what, builder) in [
        ("unpacked size", good().file("zeros", vec![0; 2 << 20])),
        (
            "number of entries",
            good().file("a", "").file("b", "").file("c", ""),
        ),
    ] {
        let refused = operator.try_push(&builder.gzip().await).await.unwrap_err();
        assert_eq!(reason(&refused), Some(Reason::TooLarge), "{refused}");
        assert!(refused.message().contains(what), "{refused}");
    }
    let _agent = server.agent("edge-1").await;
    let fits = operator.push(&good().file("a", "x").gzip().await).await;
    let target = operator.deploy_and_finish(&fits, "edge-1").await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
}

/// A folder of some megabytes, which is more than fits into any buffer.
fn large_folder(at: &Path) {
    fs::create_dir(at).unwrap();
    let manifest = r#"{"name": "large", "version": "1.0", "deploy": {"script": "./run.sh"}}"#;
    fs::write(at.join("manifest.json"), manifest).unwrap();
    fs::write(at.join("run.sh"), "#!/bin/sh\nls\n").unwrap();
    let mut state = 1_u32;
    for name in ["one.bin", "two.bin"] {
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0] & 0x1f
        })
        .take(2_500_000)
        .collect();
        fs::write(at.join(name), bytes).unwrap();
    }
}

async fn deploying_a_folder_again_deploys_the_same_bundle(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let _agent = server.agent("edge-1").await;
    large_folder(&server.scratch().join("large"));
    for round in 0..3 {
        let done = ctl.run(&["deploy", "./large", "--device", "edge-1", "--watch"]);
        assert_eq!(done.code, Some(0), "{}\n{}", done.stdout, done.stderr);
        assert_eq!(
            done.stderr.contains("already"),
            round > 0,
            "{}",
            done.stderr
        );
    }
    let bundles = ctl.json(&["bundle", "list"]);
    assert_eq!(bundles.as_array().map(Vec::len), Some(1), "{bundles}");
    let packed = ctl.ok(&["bundle", "pack", "large", "--zstd"]);
    assert_eq!(packed, "large-1.0.tar.zst\n");
}

/// Everything that is wrong with a folder in one go, and then nothing.
#[tokio::test(flavor = "multi_thread")]
async fn kernexctl_names_every_mistake_and_its_suggestions_work() {
    let server = TestServer::start(Database::Sqlite).await;
    let ctl = Ctl::on(&server);
    let app = server.scratch().join("app");
    fs::create_dir(&app).unwrap();
    let manifest = r#"{"version": "1", "deploy": {"script": "./run.sh"}, "rolback": {}, "links": "inside", "team": "edge"}"#;
    fs::write(app.join("manifest.json"), manifest).unwrap();
    fs::write(app.join("run.sh"), "#!/bin/sh\r\necho done\r\n").unwrap();
    std::os::unix::fs::symlink("/usr/bin/python3", app.join("python")).unwrap();
    std::os::unix::fs::symlink("/etc", app.join("etc")).unwrap();
    for verb in [
        &["bundle", "pack", "app"][..],
        &["bundle", "push", "app"],
        &["deploy", "./app", "--to", "*"],
    ] {
        let done = ctl.run(verb);
        assert_eq!(done.code, Some(1), "{verb:?}: {}", done.stderr);
        for part in [
            "did you mean `rollback`?",
            "`./run.sh`, which has Windows line ends",
            "`python` is a symbolic link to an absolute path",
            "`etc` is a symbolic link to an absolute path",
            "\"links\": \"any\"",
            "sed -i",
            "--allow-unknown",
        ] {
            assert!(done.stderr.contains(part), "{verb:?}: {}", done.stderr);
        }
    }
    let sed = Command::new("sed")
        .args(["-i", r"s/\r$//", "run.sh"])
        .current_dir(&app)
        .status();
    assert!(sed.unwrap().success());
    fs::write(app.join("manifest.json"), manifest.replace("inside", "any")).unwrap();
    let done = ctl.run(&["bundle", "push", "app", "--allow-unknown"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    for part in ["note: `rolback`", "note: `team`", "is not executable"] {
        assert!(done.stderr.contains(part), "{}", done.stderr);
    }
}

#[test]
fn settings_that_are_mistyped_are_named_by_check_config() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kernex.toml");
    let server = || {
        let mut command = Command::new(binaries::path("kernex-server"));
        command.arg("check-config").env_clear();
        command
    };
    let agent = || {
        let mut command = bare_command("check-config");
        command.env_clear();
        command
    };
    let said = |command: &mut Command| {
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    for (program, mistyped, meant) in [
        (&server as &dyn Fn() -> Command, "lisen", "listen"),
        (&agent, "keep_relases", "keep_releases"),
    ] {
        fs::write(&file, format!("{mistyped} = \"3\"\n")).unwrap();
        let (good, text) = said(program().arg("--config").arg(&file));
        assert!(
            !good && text.contains(&format!("did you mean `{meant}`?")),
            "{text}"
        );
    }
    let (good, text) = said(server().env("KERNEX_LISEN", "x"));
    assert!(
        !good && text.contains("did you mean `KERNEX_LISTEN`?"),
        "{text}"
    );
    let (good, text) = said(server().env("KERNEX_OF_OUR_OWN", "x"));
    assert!(
        good && text.contains("`KERNEX_OF_OUR_OWN` is no setting"),
        "{text}"
    );
    let (good, text) = said(agent().env("KERNEX_AGENT_SERVR", "x"));
    assert!(
        !good && text.contains("did you mean `KERNEX_AGENT_SERVER`?"),
        "{text}"
    );
    let (good, text) = said(&mut agent());
    assert!(good && text.contains("/var/lib/kernex-agent"), "{text}");
}
