//! The same files give the same bytes, and what must not be in a bundle is not.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("manifest.json"),
        r#"{"name": "app", "version": "1.0"}"#,
    )
    .unwrap();
    fs::create_dir_all(dir.path().join("bin/empty")).unwrap();
    fs::write(dir.path().join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(
        dir.path().join("bin/run"),
        fs::Permissions::from_mode(0o740),
    )
    .unwrap();
    fs::write(dir.path().join("notes.txt"), "x").unwrap();
    std::os::unix::fs::symlink("bin/run", dir.path().join("start")).unwrap();
    dir
}

async fn packed(dir: &Path) -> Packed {
    let args = PackArgs::default();
    pack(dir, &std::env::temp_dir(), None, args).await.unwrap()
}

/// Why it is not packed.
async fn refusal(dir: &Path) -> Failure {
    let args = PackArgs::default();
    pack(dir, &std::env::temp_dir(), None, args)
        .await
        .unwrap_err()
}

async fn names(packed: &Packed) -> Vec<(String, u32)> {
    use tokio_stream::StreamExt as _;
    let file = tokio::io::BufReader::new(tokio::fs::File::open(&packed.file).await.unwrap());
    let gzip = async_compression::tokio::bufread::GzipDecoder::new(file);
    let mut archive = tokio_tar::Archive::new(gzip);
    let mut entries = archive.entries().unwrap();
    let mut names = Vec::new();
    while let Some(entry) = entries.next().await {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        names.push((path, entry.header().mode().unwrap()));
    }
    names
}

#[tokio::test]
async fn the_same_files_give_the_same_bytes() {
    let (one, two) = (folder(), folder());
    // Times do not matter, nor whether others may write.
    fs::set_permissions(
        two.path().join("notes.txt"),
        fs::Permissions::from_mode(0o664),
    )
    .unwrap();
    let file = fs::File::options()
        .append(true)
        .open(two.path().join("notes.txt"))
        .unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1))
        .unwrap();

    let (one, two) = (packed(one.path()).await, packed(two.path()).await);
    assert_eq!(one.digest, two.digest);
    assert_eq!(fs::read(&one.file).unwrap(), fs::read(&two.file).unwrap());
    assert_eq!(one.reference(), "app:1.0");
    assert_eq!(one.file_name(), "app-1.0.tar.gz");
    assert_eq!(
        fs::read(&one.file).unwrap()[..10],
        [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff],
        "gzip header"
    );
}

#[tokio::test]
async fn entries_are_sorted_and_modes_survive_but_for_others_writing() {
    let dir = folder();
    for (name, mode) in [("notes.txt", 0o600), ("bin/empty", 0o2777)] {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(dir.path().join(name), mode).unwrap();
    }
    let found = names(&packed(dir.path()).await).await;
    let expected = [
        ("bin", 0o755),
        ("bin/empty", 0o755),
        ("bin/run", 0o740),
        ("manifest.json", 0o644),
        ("notes.txt", 0o600),
        ("start", 0o777),
    ];
    let expected: Vec<_> = expected.map(|(name, mode)| (name.to_owned(), mode)).into();
    let found: Vec<_> = found
        .into_iter()
        .map(|(name, mode)| (name.trim_end_matches('/').to_owned(), mode))
        .collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_file_with_a_set_id_bit_is_named_and_not_packed() {
    let dir = folder();
    let mode = fs::Permissions::from_mode(0o4755);
    fs::set_permissions(dir.path().join("bin/run"), mode).unwrap();
    let failure = refusal(dir.path()).await;
    let said = format!("{failure:?}");
    assert!(
        said.contains("bin/run") && said.contains("set-user-id"),
        "{said}"
    );
}

#[tokio::test]
async fn what_is_ignored_stays_out() {
    let dir = folder();
    fs::write(dir.path().join(".kernexignore"), "*.txt\n/bin/empty\n").unwrap();
    fs::write(dir.path().join(".gitignore"), "manifest.json\n").unwrap();
    fs::create_dir(dir.path().join(".git")).unwrap();
    let out = dir.path().join("app-1.0.tar.gz");
    fs::write(&out, "an older archive").unwrap();
    let args = PackArgs::default();
    let packed = pack(dir.path(), dir.path(), Some(&out), args)
        .await
        .unwrap();
    let found: Vec<_> = names(&packed)
        .await
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let found: Vec<_> = found
        .iter()
        .map(|name| name.trim_end_matches('/'))
        .collect();
    assert_eq!(
        found,
        [".gitignore", "bin", "bin/run", "manifest.json", "start"]
    );
}

#[tokio::test]
async fn a_folder_that_will_not_do_is_refused_with_a_next_step() {
    let dir = folder();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("leak")).unwrap();
    let failure = refusal(dir.path()).await;
    assert!(failure.message.contains("leak"), "{failure}");

    fs::write(dir.path().join("manifest.json"), "{}").unwrap();
    let failure = refusal(dir.path()).await;
    assert!(failure.message.contains("version"), "{failure}");

    fs::remove_file(dir.path().join("manifest.json")).unwrap();
    let failure = refusal(dir.path()).await;
    assert!(failure.next.contains("bundle init"), "{failure}");
}

#[tokio::test]
async fn long_paths_survive() {
    let dir = folder();
    let deep = dir.path().join("d".repeat(90)).join("e".repeat(90));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f".repeat(90)), "x").unwrap();
    let found = names(&packed(dir.path()).await).await;
    assert!(
        found
            .iter()
            .any(|(name, _)| name.ends_with(&"f".repeat(90)))
    );
}

/// Long enough for several blocks, and for a disk that is sometimes slow.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_folder_gives_the_same_bytes_each_time_in_both_forms() {
    let dir = folder();
    let mut state = 7_u64;
    let mut noise = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        u8::try_from(state >> 58).unwrap()
    };
    for name in ["one", "two"] {
        let bytes: Vec<u8> = (0..3_000_000).map(|_| noise()).collect();
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    for zstd in [false, true] {
        let args = PackArgs {
            zstd,
            ..PackArgs::default()
        };
        let mut digests = Vec::new();
        for _ in 0..4 {
            let packed = pack(dir.path(), &std::env::temp_dir(), None, args)
                .await
                .unwrap();
            let ending = if zstd { "tar.zst" } else { "tar.gz" };
            assert_eq!(packed.file_name(), format!("app-1.0.{ending}"));
            assert!(packed.size < 5_500_000, "{}", packed.size);
            digests.push(packed.digest);
        }
        digests.dedup();
        assert_eq!(digests.len(), 1, "zstd: {zstd}");
    }
}

#[tokio::test]
async fn everything_that_is_wrong_is_said_at_once() {
    let dir = folder();
    fs::write(
        dir.path().join("manifest.json"),
        r#"{"version": "1", "deploy": {"scirpt": "x"}, "hooks": {"pre": "./chekc.sh"}}"#,
    )
    .unwrap();
    fs::write(dir.path().join("check.sh"), "echo\n").unwrap();
    for name in ["zebra-one", "zebra-two"] {
        std::os::unix::fs::symlink("/etc", dir.path().join(name)).unwrap();
    }
    let mode = fs::Permissions::from_mode(0o4755);
    fs::set_permissions(dir.path().join("bin/run"), mode).unwrap();
    let failure = refusal(dir.path()).await;
    for part in [
        "`bin/run`",
        "`zebra-one`",
        "`zebra-two`",
        "did you mean `deploy.script`?",
        "did you mean `./check.sh`?",
    ] {
        assert!(failure.message.contains(part), "{failure}");
    }
    for part in [
        "chmod u-s",
        "`\"links\": \"any\"`",
        "--allow-unknown",
        "`exec`",
    ] {
        assert!(failure.next.contains(part), "{failure}");
    }

    let args = PackArgs {
        allow_unknown: true,
        ..PackArgs::default()
    };
    let manifest = r#"{"version": "1", "links": "any", "deploy": {"scirpt": "x"}}"#;
    fs::write(dir.path().join("manifest.json"), manifest).unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path().join("bin/run"), mode).unwrap();
    let packed = pack(dir.path(), &std::env::temp_dir(), None, args).await;
    assert_eq!(packed.unwrap().notes.len(), 1);
}
