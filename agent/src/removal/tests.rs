//! What stays, what goes, and that nothing outside a tree is ever touched.

use std::{
    ffi::CString,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    process::Command,
    thread,
};

use rustix::{
    fd::OwnedFd,
    fs::{IFlags, ioctl_getflags, ioctl_setflags},
    thread::{set_thread_res_gid, set_thread_res_uid},
};
use tempfile::TempDir;

use super::*;

/// Each way to see where another file system begins, alone.
const EACH: [&[Lookup]; 2] = [&[Lookup::Openat2], &[Lookup::MountId]];

const NOBODY: u32 = 65_534;

struct Bench {
    dir: TempDir,
    remover: Remover,
}

impl Bench {
    fn new(lookups: &'static [Lookup]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/data"), "data").unwrap();
        let remover = Remover::with(&dir.path().join("state"), lookups);
        Self { dir, remover }
    }

    fn state(&self) -> &Path {
        self.remover.state_dir()
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// A tree with files and folders.
    fn tree(&self) -> PathBuf {
        let tree = self.state().join("bundles/app/releases/1.0");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir_all(tree.join("empty")).unwrap();
        for file in ["top", "a/one", "a/b/two", "a/b/c/three"] {
            fs::write(tree.join(file), file).unwrap();
        }
        tree
    }

    /// Everything that was outside is there.
    fn is_untouched_outside(&self) -> bool {
        fs::read_to_string(self.outside().join("data")).is_ok_and(|text| text == "data")
    }

    fn trash(&self) -> usize {
        fs::read_dir(self.state().join(TRASH)).map_or(0, Iterator::count)
    }

    fn reason(&self) -> String {
        let left = self.remover.leftovers().unwrap_or_default();
        let reasons = left.named.into_iter().map(|left| left.reason);
        reasons.collect::<Vec<_>>().join("; ")
    }
}

/// Names and modes of everything below a folder.
fn listing(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = vec![(
        folder.to_owned(),
        fs::symlink_metadata(folder).unwrap().mode(),
    )];
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(listing(&entry.path()));
        } else {
            found.push((entry.path(), entry.metadata().unwrap().mode()));
        }
    }
    found.sort();
    found
}

/// A mount that ends with the test.
struct Mount(PathBuf);

impl Mount {
    fn new(words: &[&str], what: &Path, at: &Path) -> Self {
        let mut mount = Command::new("mount");
        let output = mount.args(words).arg(what).arg(at).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Runs this as a user who may do nothing special. Ids belong to threads; other tests keep theirs.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            let gid = rustix::fs::Gid::from_raw(NOBODY);
            let uid = rustix::fs::Uid::from_raw(NOBODY);
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        run.join().unwrap()
    })
}

fn give_to_nobody(path: &Path) {
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
}

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_tree_goes_with_all_that_is_in_it_and_links_are_not_followed() {
    for lookups in EACH {
        let bench = Bench::new(lookups);
        let tree = bench.tree();
        symlink(bench.outside(), tree.join("a/link")).unwrap();
        symlink(bench.outside().join("data"), tree.join("file-link")).unwrap();
        symlink("nowhere", tree.join("dangling")).unwrap();
        assert_eq!(bench.remover.removable(&tree), Some(3 + 5 + 7 + 11));
        bench.remover.remove(&tree).unwrap();
        assert!(!tree.exists() && tree.parent().unwrap().exists());
        assert!(bench.is_untouched_outside());
        bench.remover.remove(&tree).unwrap();
        fs::write(&tree, "a file").unwrap();
        bench.remover.remove(&tree).unwrap();
        symlink(bench.outside(), &tree).unwrap();
        bench.remover.remove(&tree).unwrap();
        assert!(fs::symlink_metadata(&tree).is_err() && bench.is_untouched_outside());
        assert_eq!((bench.trash(), bench.remover.leftovers()), (0, None));
    }
}

#[test]
fn a_tree_may_be_deeper_than_paths_and_descriptors_reach() {
    const DEPTH: usize = 5000;
    for lookups in EACH {
        let bench = Bench::new(lookups);
        let tree = bench.tree();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder: OwnedFd = rustix::fs::open(&tree, flags, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            for name in ["d", "e"] {
                rustix::fs::mkdirat(&folder, name, Mode::RWXU).unwrap();
            }
            folder = rustix::fs::openat(&folder, "d", flags, Mode::empty()).unwrap();
        }
        drop(folder);
        const { assert!(DEPTH > 10 * walk::OPEN) };
        bench.remover.remove(&tree).unwrap();
        assert_eq!((bench.trash(), tree.exists()), (0, false));
    }
}

#[test]
fn where_nothing_can_tell_file_systems_apart_nothing_is_removed() {
    let bench = Bench::new(&[]);
    let tree = bench.tree();
    let before = listing(&tree);
    assert!(bench.remover.remove(&tree).is_err());
    assert_eq!(listing(&tree), before);
    assert!(
        bench.reason().contains("neither openat2 nor /proc"),
        "{}",
        bench.reason()
    );
    assert_eq!(bench.remover.removable(&tree), None);
}

#[test]
fn a_link_on_the_way_to_a_tree_is_not_followed() {
    for lookups in EACH {
        let bench = Bench::new(lookups);
        fs::create_dir_all(bench.outside().join("releases/1.0")).unwrap();
        fs::create_dir(bench.state().join("bundles")).unwrap();
        symlink(bench.outside(), bench.state().join("bundles/app")).unwrap();
        let tree = bench.state().join("bundles/app/releases/1.0");
        assert!(bench.remover.remove(&tree).is_err());
        assert!(bench.outside().join("releases/1.0").is_dir());
        assert_eq!(bench.reason(), "a symbolic link leads there");
        for path in ["/", "/etc", "..", "bundles/../../outside", ""] {
            assert!(bench.remover.remove(Path::new(path)).is_err(), "{path}");
        }
        assert!(bench.is_untouched_outside());
    }
}

#[test]
fn the_trash_and_temporary_files_are_swept_and_what_left_by_itself_is_forgotten() {
    let bench = Bench::new(LOOKUPS);
    for folder in ["trash/1-half", "tmp/x.unpacked/below"] {
        fs::create_dir_all(bench.state().join(folder)).unwrap();
    }
    fs::write(bench.state().join("tmp/x.bundle"), "").unwrap();
    fs::write(bench.state().join("trash/1-half/file"), "").unwrap();
    let gone = "bundles/app/releases/gone".to_owned();
    bench.remover.left().insert(gone, "reason".to_owned());
    bench.remover.sweep().unwrap();
    assert_eq!((bench.trash(), bench.remover.leftovers()), (0, None));
    assert_eq!(fs::read_dir(bench.state().join("tmp")).unwrap().count(), 0);
    assert_eq!(Bench::new(LOOKUPS).remover.sweep(), Ok(()));
}

#[test]
fn heartbeats_name_some_and_count_all() {
    let bench = Bench::new(LOOKUPS);
    for number in 0..40 {
        let (path, reason) = (format!("p{number:02}"), "ä".repeat(LONGEST));
        bench.remover.left().insert(path, reason);
    }
    let left = bench.remover.leftovers().unwrap();
    assert_eq!((left.count, left.named.len()), (40, NAMED));
    assert!(left.named.iter().all(|left| left.reason.len() <= LONGEST));
    assert_eq!(left.named[0].path, "p00");
}

#[test]
#[cfg_attr(
    not(kernex_mounts),
    ignore = "mounting needs root; fails instead with CI=true"
)]
fn a_mount_leaves_the_tree_as_it_is_until_it_is_gone() {
    for lookups in EACH {
        let bench = Bench::new(lookups);
        let (outside, file) = (bench.outside(), bench.outside().join("data"));
        let cases: [(&[&str], &Path, &str); 4] = [
            (&["--bind"], &outside, "a/b"),
            (&["--bind"], &file, "a/b/two"),
            (&["-t", "tmpfs"], Path::new("kernex-test"), "empty"),
            (&["--bind"], &outside, ""),
        ];
        for (words, what, at) in cases {
            let tree = bench.tree();
            let mount = Mount::new(words, what, &tree.join(at));
            let before = listing(&tree);
            assert!(bench.remover.remove(&tree).is_err());
            assert_eq!(listing(&tree), before);
            assert_eq!(bench.remover.removable(&tree), None);
            let name = if at.is_empty() {
                "it".to_owned()
            } else {
                format!("`{at}`")
            };
            assert_eq!(
                bench.reason(),
                format!("a file system is mounted at {name}")
            );
            assert!(bench.is_untouched_outside());
            drop(mount);
            bench.remover.remove(&tree).unwrap();
            assert!(!tree.exists() && bench.is_untouched_outside());
            assert_eq!((bench.trash(), bench.remover.leftovers()), (0, None));
        }
    }
}

#[test]
#[cfg_attr(
    not(kernex_mounts),
    ignore = "mounting needs root; fails instead with CI=true"
)]
fn a_mount_that_comes_after_looking_is_not_crossed_either() {
    for lookups in EACH {
        let bench = Bench::new(lookups);
        let (state, guard) = bench.remover.state().unwrap();
        for at in ["a/b", "a/b/two", ""] {
            let tree = bench.tree();
            let what = match at {
                "a/b/two" => bench.outside().join("data"),
                _ => bench.outside(),
            };
            let mount = Mount::new(&["--bind"], &what, &tree.join(at));
            let inside = Path::new("bundles/app/releases/1.0");
            let (above, name) = below(guard, &state, inside).unwrap();
            let mut walk = Walk {
                guard,
                purpose: Purpose::Remove,
                above: above.as_fd(),
                bytes: 0,
            };
            assert_eq!(
                walk.run(&name).unwrap_err().why,
                StuckReason::Mounted,
                "{at}"
            );
            assert!(bench.is_untouched_outside() && tree.join(at).exists());
            drop(mount);
            walk.run(&name).unwrap();
            assert!(!tree.exists() && bench.is_untouched_outside());
        }
    }
}

#[test]
#[cfg_attr(
    not(kernex_mounts),
    ignore = "immutable files need root; fails instead with CI=true"
)]
fn what_is_immutable_leaves_the_tree_as_it_is() {
    let bench = Bench::new(LOOKUPS);
    for (at, flag) in [
        ("a/b/two", IFlags::IMMUTABLE),
        ("a/b/two", IFlags::APPEND),
        ("a/b", IFlags::IMMUTABLE),
        ("", IFlags::IMMUTABLE),
    ] {
        let tree = bench.tree();
        let file = fs::File::open(tree.join(at)).unwrap();
        let flags = ioctl_getflags(&file).unwrap();
        ioctl_setflags(&file, flags | flag).unwrap();
        let before = listing(&tree);
        let removed = bench.remover.remove(&tree);
        let after = listing(&tree);
        ioctl_setflags(&file, flags).unwrap();
        assert_eq!(
            (removed.unwrap_err().why, after),
            (StuckReason::Fixed, before),
            "{at}"
        );
        bench.remover.remove(&tree).unwrap();
    }
    assert_eq!((bench.trash(), bench.remover.leftovers()), (0, None));
}

#[test]
#[cfg_attr(
    not(kernex_mounts),
    ignore = "other users need root; fails instead with CI=true"
)]
fn what_a_script_made_read_only_goes_without_root() {
    for lookups in EACH {
        let bench = Bench::new(lookups);
        set(bench.dir.path(), 0o755);
        give_to_nobody(bench.state());
        as_nobody(|| {
            for mode in [0o555, 0o500, 0o400, 0o200, 0o000] {
                let tree = bench.tree();
                for folder in ["a/b/c", "a/b", "a", "empty", ""] {
                    set(&tree.join(folder), mode);
                }
                bench.remover.remove(&tree).unwrap();
                assert!(!tree.exists(), "{mode:o}");
            }
        });
        assert_eq!((bench.trash(), bench.remover.leftovers()), (0, None));
    }
}

#[test]
#[cfg_attr(
    not(kernex_mounts),
    ignore = "other users need root; fails instead with CI=true"
)]
fn what_belongs_to_others_stays_and_rights_are_given_back() {
    for lookups in EACH {
        let bench = Bench::new(lookups);
        set(bench.dir.path(), 0o755);
        let tree = bench.tree();
        for path in ["", "a", "a/b", "a/b/c", "empty", "top", "a/one", "a/b/two"] {
            give_to_nobody(&tree.join(path));
        }
        for path in [
            bench.state(),
            &bench.state().join("bundles"),
            &bench.state().join("bundles/app/releases"),
        ] {
            give_to_nobody(path);
        }
        // A folder that root has written into, below folders whose owner has no rights.
        fs::create_dir(tree.join("a/b/theirs")).unwrap();
        fs::write(tree.join("a/b/theirs/file"), "").unwrap();
        set(&tree.join("a/b"), 0o300);
        set(&tree.join("a"), 0o000);
        let before = listing(&tree);
        as_nobody(|| {
            assert_eq!(
                bench.remover.remove(&tree).unwrap_err().why,
                StuckReason::NotPermitted
            );
            assert_eq!(bench.remover.removable(&tree), None);
        });
        assert_eq!(listing(&tree), before);
        assert_eq!(bench.reason(), "the agent may not remove `a/b/theirs`");
        // In a folder of all, only owners remove what is theirs.
        fs::remove_file(tree.join("a/b/theirs/file")).unwrap();
        set(&tree.join("a/b/theirs"), 0o1777);
        fs::write(tree.join("a/b/theirs/file"), "").unwrap();
        as_nobody(|| bench.remover.remove(&tree).unwrap_err());
        assert_eq!(bench.reason(), "the agent may not remove `a/b/theirs/file`");
        give_to_nobody(&tree.join("a/b/theirs/file"));
        as_nobody(|| bench.remover.remove(&tree).unwrap());
        assert_eq!((bench.trash(), bench.remover.leftovers()), (0, None));
    }
}

#[test]
fn a_name_in_the_trash_says_what_it_was() {
    let name = trash_name(Path::new("bundles/app/releases/1.0-abc"))
        .into_string()
        .unwrap();
    assert!(name.ends_with("-1.0-abc"), "{name}");
    let long = trash_name(Path::new(&"ä".repeat(200)));
    assert!(long.as_bytes().len() < 255);
    assert_ne!(trash_name(Path::new("x")), CString::default());
}
