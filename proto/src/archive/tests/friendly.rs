//! Archives as people really make them.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    process::Command,
};

use tokio_tar::EntryType;

use super::{
    making::{MANIFEST, Tar, gz, zst},
    *,
};

/// A folder `app` with what a real one has, and room beside it.
fn app() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let app = scratch.path().join("app");
    fs::create_dir_all(app.join("bin/empty")).unwrap();
    fs::write(app.join("manifest.json"), MANIFEST).unwrap();
    fs::write(app.join("bin/run.sh"), "#!/bin/sh\n").unwrap();
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(app.join("bin/run.sh"), executable).unwrap();
    fs::hard_link(app.join("bin/run.sh"), app.join("bin/twin.sh")).unwrap();
    std::os::unix::fs::symlink("bin/run.sh", app.join("start")).unwrap();
    let long = app.join("n".repeat(120)).join("m".repeat(120));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("deep"), vec![42; 300_000]).unwrap();
    scratch
}

fn tar(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let made = Command::new("tar")
        .args(["--owner=0", "--group=0", "-cf", "-"])
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success());
    made.stdout
}

/// Everything below a folder: path, mode, and bytes or link.
fn contents(root: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let bytes = if meta.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                target.into_os_string().into_encoded_bytes()
            } else if meta.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                assert_eq!(meta.nlink(), 1, "a hard link becomes a copy");
                fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.push((name, meta.mode() & 0o7777, bytes));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn what_tar_makes_in_any_of_its_ways_unpacks_to_the_same() {
    let scratch = app();
    let app = scratch.path().join("app");
    fs::remove_file(app.join("bin/twin.sh")).unwrap();
    fs::copy(app.join("bin/run.sh"), app.join("bin/twin.sh")).unwrap();
    let expected = contents(&app);
    fs::remove_file(app.join("bin/twin.sh")).unwrap();
    fs::hard_link(app.join("bin/run.sh"), app.join("bin/twin.sh")).unwrap();

    let names: Vec<String> = fs::read_dir(&app)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for format in ["--format=gnu", "--format=pax"] {
        for (dir, what) in [
            (app.as_path(), vec!["."]),
            (app.as_path(), names.clone()),
            (scratch.path(), vec!["app"]),
            (scratch.path(), vec!["./app/"]),
        ] {
            let mut arguments = vec![format];
            arguments.extend(&what);
            let tar = tar(dir, &arguments);
            for (kind, archive) in [
                (Format::TarGz, gz(&tar).await),
                (Format::TarZst, zst(&tar).await),
            ] {
                let target = tempfile::tempdir().unwrap();
                let into = target.path().join("new/into");
                let unpacked = unpack_at(&archive, &into).await.unwrap();
                assert_eq!(contents(&into), expected, "{format} {what:?}");
                assert_eq!(unpacked, look(&archive).await.unwrap());
                assert_eq!(unpacked.format, kind);
                assert_eq!(unpacked.manifest_json, MANIFEST);
                let bytes: usize = expected
                    .iter()
                    .map(|(name, _, bytes)| if name == "start" { 0 } else { bytes.len() })
                    .sum();
                assert_eq!(unpacked.unpacked_bytes, bytes as u64);
            }
        }
    }
}

#[tokio::test]
async fn the_output_of_git_archive_is_welcome() {
    let comment = b"52 comment=0123456789012345678901234567890123456789\n";
    let archive = Tar::default()
        .entry(
            EntryType::XGlobalHeader,
            "pax_global_header",
            "",
            0o666,
            comment,
        )
        .file("manifest.json", MANIFEST)
        .gz()
        .await;
    assert_eq!(look(&archive).await.unwrap().entries, 1);
}

#[tokio::test]
async fn attribute_files_of_macos_are_ordinary_files() {
    let archive = Tar::default()
        .file("./._app", b"attributes of the folder")
        .folder("app/")
        .file("app/._manifest.json", b"attributes")
        .file("app/manifest.json", MANIFEST)
        .gz()
        .await;
    let scratch = tempfile::tempdir().unwrap();
    unpack_at(&archive, scratch.path()).await.unwrap();
    let names: Vec<_> = contents(scratch.path())
        .into_iter()
        .map(|(name, ..)| name)
        .collect();
    assert_eq!(names, ["._manifest.json", "manifest.json"]);
}

#[tokio::test]
async fn litter_of_macos_beside_the_folder_does_not_hide_it() {
    let archive = Tar::default()
        .file(".DS_Store", b"view")
        .folder("__MACOSX/")
        .file("__MACOSX/app/._run.sh", b"attributes")
        .symlink("__MACOSX/link", "/etc")
        .file("._app", b"attributes")
        .file("._other", b"attributes")
        .folder("app/")
        .file("app/manifest.json", MANIFEST)
        .file("app/.DS_Store", b"mine now")
        .gz()
        .await;
    let scratch = tempfile::tempdir().unwrap();
    let unpacked = unpack_at(&archive, scratch.path()).await.unwrap();
    assert_eq!(unpacked, look(&archive).await.unwrap());
    let names: Vec<_> = contents(scratch.path())
        .into_iter()
        .map(|(name, ..)| name)
        .collect();
    assert_eq!(names, [".DS_Store", "manifest.json"]);
}

#[tokio::test]
async fn what_parallel_compressors_write_is_one_file() {
    let tar = Tar::bundle().file("data", &[9; 20_000]).closed();
    let (a, b) = tar.split_at(700);
    let skipped = [0x5e, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2];
    for archive in [
        [gz(a).await, gz(b"").await, gz(b).await].concat(),
        [zst(a).await, zst(b).await].concat(),
        [
            &skipped[..],
            &zst(a).await,
            &skipped[..],
            &zst(b).await,
            &skipped[..],
        ]
        .concat(),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        unpack_at(&archive, scratch.path()).await.unwrap();
        let data = fs::read(scratch.path().join("data")).unwrap();
        assert_eq!(data, [9; 20_000]);
    }
}

#[tokio::test]
async fn a_folder_may_be_named_after_what_is_in_it() {
    let archive = Tar::bundle()
        .file("d/e/x", b"x")
        .entry(EntryType::Directory, "d/e/", "", 0o750, b"")
        .gz()
        .await;
    let scratch = tempfile::tempdir().unwrap();
    unpack_at(&archive, scratch.path()).await.unwrap();
    let modes: Vec<_> = contents(scratch.path())
        .into_iter()
        .map(|(name, mode, _)| (name, mode))
        .collect();
    assert!(modes.contains(&("d".to_owned(), 0o755)));
    assert!(modes.contains(&("d/e".to_owned(), 0o750)));
}

#[tokio::test]
async fn a_top_folder_may_hold_a_folder_of_its_own_name() {
    let archive = Tar::default()
        .file("app/manifest.json", MANIFEST)
        .file("app/app/app", b"x")
        .symlink("app/link", "app/app")
        .gz()
        .await;
    let scratch = tempfile::tempdir().unwrap();
    unpack_at(&archive, scratch.path()).await.unwrap();
    assert_eq!(fs::read(scratch.path().join("link")).unwrap(), b"x");
}

#[tokio::test]
async fn modes_without_a_reader_keep_the_owner_able_to_work() {
    let archive = Tar::bundle()
        .entry(EntryType::Regular, "secret", "", 0o000, b"x")
        .entry(EntryType::Directory, "closed", "", 0o1000, b"")
        .file("closed/x", b"x")
        .hard_link("copy", "secret")
        .gz()
        .await;
    let scratch = tempfile::tempdir().unwrap();
    unpack_at(&archive, scratch.path()).await.unwrap();
    let mode = |name| fs::metadata(scratch.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        ["secret", "closed", "copy"].map(mode),
        [0o400, 0o700, 0o400]
    );
}

#[tokio::test]
async fn nobody_but_the_owner_may_write_and_folders_lose_their_special_bits() {
    let archive = Tar::bundle()
        .entry(EntryType::Regular, "run.sh", "", 0o777, b"x")
        .entry(EntryType::Regular, "tls.key", "", 0o600, b"x")
        .entry(EntryType::Directory, "shared", "", 0o2775, b"")
        .entry(EntryType::Directory, "tmp", "", 0o1777, b"")
        .entry(EntryType::Directory, "private", "", 0o700, b"")
        .gz()
        .await;
    let scratch = tempfile::tempdir().unwrap();
    unpack_at(&archive, scratch.path()).await.unwrap();
    let mode = |name| fs::metadata(scratch.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        ["run.sh", "tls.key", "shared", "tmp", "private"].map(mode),
        [0o755, 0o600, 0o755, 0o755, 0o700]
    );
}

#[tokio::test]
async fn many_small_files_arrive() {
    let tar = (0..500).fold(Tar::bundle(), |tar, n| {
        tar.file(&format!("d{}/f{n}", n % 7), n.to_string().as_bytes())
    });
    let scratch = tempfile::tempdir().unwrap();
    let unpacked = unpack_at(&tar.gz().await, scratch.path()).await.unwrap();
    assert_eq!(unpacked.entries, 508);
    assert_eq!(contents(scratch.path()).len(), 508);
}
