//! What stays, what goes, and that nothing outside a tree is ever touched.

use std::{
    ffi::CString,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
};

use rustix::fd::OwnedFd;
use tempfile::TempDir;

use super::*;

mod as_root;

/// Each way to see where another file system begins, alone.
const EACH: [&[Lookup]; 2] = [&[Lookup::Openat2], &[Lookup::MountId]];

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
fn a_name_in_the_trash_says_what_it_was() {
    let name = trash_name(Path::new("bundles/app/releases/1.0-abc"))
        .into_string()
        .unwrap();
    assert!(name.ends_with("-1.0-abc"), "{name}");
    let long = trash_name(Path::new(&"ä".repeat(200)));
    assert!(long.as_bytes().len() < 255);
    assert_ne!(trash_name(Path::new("x")), CString::default());
}
