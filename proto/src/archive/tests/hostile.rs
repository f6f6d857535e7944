//! What must be refused, in which words, and without anything getting into place.

use tokio_tar::EntryType;

use super::{
    making::{MANIFEST, Tar, gz, zst},
    *,
};

/// Refused by both, with the entry and the reason; nothing gets into place.
async fn refused(tar: Tar, entry: &str, why: &str) {
    let archive = tar.gz().await;
    let scratch = tempfile::tempdir().unwrap();
    let into = scratch.path().join("into");
    for result in [look(&archive).await, unpack_at(&archive, &into).await] {
        let error = result.unwrap_err();
        assert_eq!(error.failure_reason(), v1::FailureReason::UnsafeArchive);
        let text = error.to_string();
        assert!(text.contains(why), "`{text}` does not say `{why}`");
        assert!(text.contains(entry), "`{text}` does not name `{entry}`");
    }
    nothing_in_place(&into);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
}

fn bundle() -> Tar {
    Tar::bundle()
}

#[tokio::test]
async fn paths_that_lead_out_are_refused() {
    refused(bundle().file("/etc/x", b""), "/etc/x", "absolute").await;
    refused(bundle().file("../x", b""), "../x", "climbs out").await;
    refused(bundle().file("a/../../x", b""), "a/../../x", "climbs out").await;
    refused(bundle().folder(".."), "..", "climbs out").await;
    refused(bundle().file("./", b"x"), "./", "has no name").await;
    refused(bundle().file("x/", b"x"), "x/", "named like a folder").await;
}

#[tokio::test]
async fn symbolic_links_that_lead_out_are_refused() {
    refused(bundle().symlink("a", "/etc"), "a", "absolute path").await;
    refused(bundle().symlink("a", ".."), "a", "leads out").await;
    refused(bundle().symlink("d/a", "../../x"), "d/a", "leads out").await;
    let through = bundle()
        .symlink("d/e/up", "../..")
        .symlink("d/e/out", "up/../x");
    refused(through, "d/e/out", "leads out").await;
    refused(bundle().symlink("a", "a"), "a", "circles").await;
    let nowhere = look(&bundle().symlink("a", "").gz().await).await;
    assert!(matches!(nowhere, Err(ArchiveError::Corrupt(_))));
}

#[tokio::test]
async fn nothing_is_written_through_a_symbolic_link() {
    let tar = bundle().symlink("d", "e").folder("e").file("d/x", b"");
    refused(tar, "d/x", "not a folder").await;
    let tar = bundle().file("d/x", b"").symlink("d", "e");
    refused(tar, "d", "twice").await;
    let tar = bundle().file("d", b"").file("d/x", b"");
    refused(tar, "d/x", "not a folder").await;
}

#[tokio::test]
async fn a_link_inside_of_the_archive_but_outside_of_the_bundle_is_refused() {
    let tar = Tar::default()
        .file("app/manifest.json", MANIFEST)
        .symlink("app/up", "../app/manifest.json");
    refused(tar, "app/up", "leads out").await;
}

#[tokio::test]
async fn hard_links_go_to_an_earlier_file_only() {
    let why = "not an earlier file";
    refused(bundle().hard_link("a", "b").file("b", b""), "a", why).await;
    refused(bundle().folder("d").hard_link("a", "d"), "a", why).await;
    refused(bundle().symlink("s", "x").hard_link("a", "s"), "a", why).await;
    refused(bundle().hard_link("a", "a"), "a", why).await;
    refused(bundle().hard_link("a", "/etc/passwd"), "a", "leads out").await;
    refused(bundle().hard_link("a", "../x"), "a", "leads out").await;
    let again = bundle().hard_link("./manifest.json", "manifest.json");
    refused(again, "manifest.json", "itself").await;
}

#[tokio::test]
async fn devices_pipes_and_the_like_are_refused() {
    for (kind, why) in [
        (EntryType::Char, "device node"),
        (EntryType::Block, "device node"),
        (EntryType::Fifo, "named pipe"),
        (EntryType::Continuous, "never unpacked"),
        (EntryType::Other(b'V'), "never unpacked"),
    ] {
        refused(bundle().entry(kind, "odd", "", 0o644, b""), "odd", why).await;
    }
}

#[tokio::test]
async fn files_with_set_id_or_sticky_bits_are_refused() {
    for mode in [0o4755, 0o2755, 0o1755] {
        let tar = bundle().entry(EntryType::Regular, "su", "", mode, b"");
        refused(tar, "su", "set-user-id").await;
        let tar = bundle().entry(EntryType::Link, "su", "manifest.json", mode, b"");
        refused(tar, "su", "set-user-id").await;
    }
}

#[tokio::test]
async fn names_with_control_characters_are_refused() {
    for name in ["a\nb", "\x1b[2J", "d\x7f/x"] {
        let tar = bundle().file(name, b"x");
        let shown = name.as_bytes().escape_ascii().to_string();
        refused(tar, &shown, "control character").await;
    }
    refused(bundle().symlink("s", "a\tb"), "s", "control character").await;
}

#[tokio::test]
async fn duplicates_are_refused() {
    refused(bundle().file("a", b"1").file("./a", b"2"), "a", "twice").await;
    refused(bundle().folder("d").folder("d/"), "d", "twice").await;
    refused(
        bundle().file("manifest.json", b"{}"),
        "manifest.json",
        "twice",
    )
    .await;
}

#[tokio::test]
async fn headers_that_readers_disagree_on_are_refused() {
    let global = |body| bundle().entry(EntryType::XGlobalHeader, "g", "", 0o644, body);
    refused(global(b"10 path=a\n"), "g", "changes the entries").await;
    let sparse = b"25 GNU.sparse.size=10000\n";
    let tar = bundle()
        .entry(EntryType::XHeader, "x", "", 0o644, sparse)
        .file("holes", b"");
    refused(tar, "holes", "sparse").await;
    let tar = bundle().entry(EntryType::Other(b'D'), "d/", "", 0o755, b"Ya\0\0");
    refused(tar, "d", "incremental").await;
    let tar = bundle().entry(EntryType::Symlink, "s", "x", 0o777, b"data");
    refused(tar, "s", "has data").await;
}

#[tokio::test]
async fn a_long_name_cannot_fill_the_memory() {
    let name = vec![b'x'; 2 * 1024 * 1024];
    let tar = bundle().entry(EntryType::GNULongName, "n", "", 0o644, &name);
    refused(tar.file("x", b""), "header", "larger").await;
}

#[tokio::test]
async fn trailing_data_is_refused() {
    let mut padded = bundle().closed();
    padded.extend_from_slice(&[0; 9000]);
    assert!(look(&gz(&padded).await).await.is_ok());

    let more = [bundle().closed(), bundle().file("b", b"").closed()].concat();
    let good = bundle().gz().await;
    for archive in [
        gz(&more).await,
        zst(&more).await,
        [good.clone(), good.clone()].concat(),
    ] {
        let error = look(&archive).await.unwrap_err();
        assert!(
            error.to_string().contains("followed by more data"),
            "{error}"
        );
    }
    for archive in [
        [good.clone(), vec![0]].concat(),
        [good, b"more than a header".to_vec()].concat(),
        [zst(&bundle().closed()).await, b"x".to_vec()].concat(),
    ] {
        let error = look(&archive).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Corrupt(_)), "{error}");
    }
}

/// A good, long tar in several members and frames, as parallel compressors write it.
#[tokio::test]
async fn an_archive_of_several_members_is_refused_wherever_it_is_cut() {
    let tar = bundle().file("data", &[7; 3000]).closed();
    let (a, b) = tar.split_at(1000);
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let first = [gz(a).await, gz(b).await].concat();
    let second = [&skipped[..], &zst(a).await, &skipped[..], &zst(b).await].concat();
    for whole in [first, second] {
        for end in 0..whole.len() {
            assert!(look(&whole[..end]).await.is_err(), "cut at {end}");
        }
        assert!(look(&whole).await.is_ok());
    }
}

#[tokio::test]
async fn every_entry_that_is_refused_is_named_with_a_way_out() {
    let tar = bundle()
        .symlink("zebra-one", "/a")
        .file("up/../../x", &[1; 5000])
        .symlink("zebra-two", "/b")
        .file("good", b"x")
        .entry(EntryType::Fifo, "pipe", "", 0o644, b"")
        .file("good", b"twice");
    let archive = tar.gz().await;
    let scratch = tempfile::tempdir().unwrap();
    let error = unpack_at(&archive, scratch.path()).await.unwrap_err();
    nothing_in_place(scratch.path());
    let findings = error.findings().unwrap();
    let names: Vec<&str> = findings.kept().iter().map(|f| f.subject.as_str()).collect();
    assert_eq!(
        names,
        ["up/../../x", "pipe", "good", "zebra-one", "zebra-two"]
    );
    let ways = findings.ways_out().join(" ");
    assert!(ways.contains("\"links\": \"any\""), "{ways}");
    assert_eq!(findings.ways_out().len(), 4, "{ways}");
}

#[tokio::test]
async fn endlessly_many_refused_entries_are_too_many() {
    let tar = (0..30).fold(bundle(), |tar, _| tar.symlink("../x", "y"));
    let error = inspect(&tar.gz().await[..], &limits(100_000, 20)).await;
    assert!(
        matches!(error, Err(ArchiveError::TooLarge { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn whatever_is_cut_off_is_refused() {
    let tar = bundle().folder("d").file("d/data", &[7; 3000]).closed();
    for whole in [gz(&tar).await, zst(&tar).await] {
        for end in 0..whole.len() {
            assert!(look(&whole[..end]).await.is_err(), "cut at {end}");
        }
        assert!(look(&whole).await.is_ok());
    }
    // A stream that is whole around a tar that is not.
    for end in (0..tar.len() - 1024).step_by(256) {
        let error = look(&gz(&tar[..end]).await).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Corrupt(_)), "{end}: {error}");
    }
}

#[tokio::test]
async fn what_is_no_archive_is_called_that() {
    for bytes in [
        &b""[..],
        b"PK\x03\x04",
        b"\x1f\x8b",
        b"\x1f\x8b and then nothing good",
    ] {
        let error = look(bytes).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Corrupt(_)), "{error}");
    }
}

fn limits(bytes: u64, entries: u64) -> Limits {
    Limits {
        max_unpacked_bytes: bytes,
        max_entries: entries,
        ..Limits::default()
    }
}

#[tokio::test]
async fn bombs_are_defused() {
    let large = bundle().file("data", &[0; 100_000]).gz().await;
    let error = inspect(&large[..], &limits(50_000, 10)).await.unwrap_err();
    assert!(error.to_string().contains("unpacked size"), "{error}");

    // Copies count, though they cost no bytes in the archive.
    let copies = (0..20).fold(bundle().file("data", &[0; 9000]), |tar, n| {
        tar.hard_link(&format!("copy{n}"), "data")
    });
    let error = inspect(&copies.gz().await[..], &limits(100_000, 100)).await;
    assert!(matches!(error, Err(ArchiveError::TooLarge { .. })));

    // Folders that are only implied count as well.
    let many = bundle().file("a/b/c/d/e/f/g", b"").gz().await;
    let error = inspect(&many[..], &limits(100_000, 7)).await.unwrap_err();
    assert!(error.to_string().contains("number of entries"), "{error}");
    assert!(inspect(&many[..], &limits(100_000, 8)).await.is_ok());
}

/// An image of an empty disk, of this many bytes.
async fn zeros(size: u64) -> Result<Inspected, ArchiveError> {
    use tokio::io::AsyncReadExt as _;
    let mut header = tokio_tar::Header::new_ustar();
    header.set_path("disk.img").unwrap();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    let start = [bundle().0, header.as_bytes().to_vec()].concat();
    let tar = io::Cursor::new(start).chain(tokio::io::repeat(0).take(size + 1024));
    let tar = tokio::io::BufReader::with_capacity(256 * 1024, tar);
    let archive = async_compression::tokio::bufread::ZstdEncoder::new(tar);
    inspect(archive, &Limits::default()).await
}

#[tokio::test]
async fn an_empty_image_may_shrink_very_well_and_a_bomb_may_not() {
    let seen = zeros(256 << 20).await.unwrap();
    assert_eq!(seen.entries, 2);
    let error = zeros((1 << 30) + (1 << 20)).await.unwrap_err();
    assert!(error.to_string().contains("compression ratio"), "{error}");
}

#[tokio::test]
async fn what_leads_out_is_made_only_for_a_manifest_that_asks_for_it() {
    let manifest = br#"{"version": "1", "links": "any"}"#;
    let tar = |manifest| {
        Tar::default()
            .symlink("venv/bin/python", "/usr/bin/python3")
            .symlink("up", "../..")
            .symlink("etc", "/etc")
            .file("manifest.json", manifest)
    };
    refused(tar(MANIFEST), "venv/bin/python", "absolute path").await;
    refused(tar(MANIFEST), "up", "leads out").await;
    let scratch = tempfile::tempdir().unwrap();
    let archive = tar(manifest).gz().await;
    let unpacked = unpack_at(&archive, scratch.path()).await.unwrap();
    assert_eq!(unpacked.entries, 6);
    for (link, target) in [
        ("venv/bin/python", "/usr/bin/python3"),
        ("up", "../.."),
        ("etc", "/etc"),
    ] {
        let made = std::fs::read_link(scratch.path().join(link)).unwrap();
        assert_eq!(made, Path::new(target));
    }
    // Nothing goes through them either.
    let through = tar(manifest).file("etc/passwd", b"x");
    refused(through, "etc/passwd", "not a folder").await;
}

#[tokio::test]
async fn a_missing_or_wrong_manifest_has_a_reason_of_its_own() {
    for tar in [
        Tar::default(),
        Tar::default().file("a/b/manifest.json", MANIFEST),
        Tar::default()
            .file("a/manifest.json", MANIFEST)
            .file("b", b""),
        Tar::default().file("manifest.json/x", b""),
        Tar::default()
            .file("x", MANIFEST)
            .symlink("manifest.json", "x"),
    ] {
        let error = look(&tar.gz().await).await.unwrap_err();
        assert_eq!(error.failure_reason(), v1::FailureReason::ManifestMissing);
    }
    let large = vec![b' '; crate::manifest::MAX_MANIFEST_BYTES + 100];
    for bytes in [&b"{}"[..], b"nonsense", &large] {
        let archive = Tar::default().file("manifest.json", bytes).gz().await;
        let scratch = tempfile::tempdir().unwrap();
        let error = unpack_at(&archive, scratch.path()).await.unwrap_err();
        assert_eq!(error.failure_reason(), v1::FailureReason::ManifestInvalid);
        nothing_in_place(scratch.path());
    }
}

#[tokio::test]
async fn a_source_that_fails_is_not_a_damaged_archive() {
    let good = bundle().gz().await;
    let source = failing_after(&good[..20]);
    let error = inspect(source, &Limits::default()).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Io(_)), "{error}");
}

/// Gives these bytes, then fails as a disk does.
fn failing_after(bytes: &[u8]) -> impl AsyncRead + Unpin + Send {
    struct Failing;
    impl AsyncRead for Failing {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Err(io::Error::other("the disk is on fire")))
        }
    }
    tokio::io::AsyncReadExt::chain(io::Cursor::new(bytes.to_vec()), Failing)
}

#[tokio::test]
async fn a_folder_with_something_in_it_is_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("mine"), "mine").unwrap();
    let error = unpack_at(&bundle().gz().await, scratch.path()).await;
    assert!(matches!(error, Err(ArchiveError::Io(_))));
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
}
