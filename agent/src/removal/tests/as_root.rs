//! What only root can set up: mounts, immutable files, files of other users.

use std::{process::Command, thread};

use rustix::{
    fs::{IFlags, ioctl_getflags, ioctl_setflags},
    thread::{set_thread_res_gid, set_thread_res_uid},
};

use super::*;

const NOBODY: u32 = 65_534;

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
