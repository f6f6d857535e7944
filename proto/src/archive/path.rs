//! What a name in an archive may look like; pure, so that it can be tested to death.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// Longest path, in bytes; the rest of the kernel's 4096 belongs to the folder it is unpacked into.
const MAX_PATH_BYTES: usize = 2048;

/// Deepest nesting; a real tree stays far below, a made-up one costs memory at each level.
const MAX_DEPTH: usize = 128;

/// Longest name of a single file.
const MAX_NAME_BYTES: usize = 255;

/// Turns the name of an entry into a path of plain components; empty for the root itself.
pub(super) fn entry_path(name: &[u8]) -> Result<PathBuf, &'static str> {
    if name.is_empty() {
        return Err("has no name");
    }
    if name.starts_with(b"/") {
        return Err("is an absolute path");
    }
    check_bytes(name)?;
    let mut path = PathBuf::new();
    let mut depth = 0;
    for component in components(name) {
        match component {
            b".." => return Err("climbs out of its folder with `..`"),
            name if name.len() > MAX_NAME_BYTES => return Err("has a name longer than 255 bytes"),
            name => path.push(OsStr::from_bytes(name)),
        }
        depth += 1;
    }
    if depth > MAX_DEPTH {
        return Err("is nested deeper than 128 folders");
    }
    Ok(path)
}

/// Checks the text of a symbolic link; whether it stays inside is decided once the tree is known.
pub(super) fn link_target(target: &[u8]) -> Result<PathBuf, &'static str> {
    if target.is_empty() {
        return Err("is a symbolic link to nothing");
    }
    if target.starts_with(b"/") {
        return Err("is a symbolic link to an absolute path");
    }
    check_bytes(target)?;
    Ok(PathBuf::from(OsStr::from_bytes(target)))
}

fn check_bytes(path: &[u8]) -> Result<(), &'static str> {
    if path.len() > MAX_PATH_BYTES {
        return Err("has a path longer than 2048 bytes");
    }
    if path.iter().any(u8::is_ascii_control) {
        // A line break in a name makes two lines of a log, an escape sequence rewrites a terminal.
        return Err("has a control character in its path");
    }
    Ok(())
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
}

/// Follows a symbolic link through the tree of the archive the way the kernel would.
///
/// `link_at` says where a path is itself a symbolic link, and to what. What does not exist is taken for a plain
/// folder. Fails when the way leaves the root, even if it came back, and when `budget`, in steps, is used up.
pub(super) fn stays_inside<'a>(
    link: &Path,
    link_at: impl Fn(&Path) -> Option<&'a Path>,
    budget: &mut u64,
) -> Result<(), &'static str> {
    // The kernel gives up after as many.
    const MAX_HOPS: usize = 40;
    let mut here = PathBuf::new();
    let mut ahead: Vec<Vec<u8>> = steps(link);
    let mut hops = 0;
    while let Some(step) = ahead.pop() {
        *budget = budget
            .checked_sub(1)
            .ok_or("is one of too many, too long symbolic links")?;
        if step == b".." {
            if !here.pop() {
                return Err("is a symbolic link that leads out of the bundle");
            }
            continue;
        }
        here.push(OsStr::from_bytes(&step));
        if let Some(target) = link_at(&here) {
            hops += 1;
            if hops > MAX_HOPS {
                return Err("is a symbolic link that goes in circles");
            }
            here.pop();
            ahead.extend(steps(target));
        }
    }
    Ok(())
}

/// The components of a path, last first.
fn steps(path: &Path) -> Vec<Vec<u8>> {
    let mut steps: Vec<_> = components(path.as_os_str().as_bytes())
        .map(<[u8]>::to_vec)
        .collect();
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_lose_their_dots_and_slashes() {
        for (name, path) in [
            ("./a//b/", "a/b"),
            ("a", "a"),
            ("./", ""),
            (".", ""),
            ("..a/b..", "..a/b.."),
        ] {
            assert_eq!(
                entry_path(name.as_bytes()),
                Ok(PathBuf::from(path)),
                "{name}"
            );
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "x".repeat(256);
        let longer = "x/".repeat(1025);
        let deep = "x/".repeat(129);
        for name in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "a/..",
            "../a",
            "a/../b",
            "a\0b",
            "a\nb",
            "a\rb",
            "\x1b[2J",
            "a\x7f",
            &long,
            &longer,
            &deep,
        ] {
            assert!(entry_path(name.as_bytes()).is_err(), "{name}");
        }
    }

    fn check(links: &[(&str, &str)], which: &str) -> Result<(), &'static str> {
        let links: BTreeMap<&Path, &Path> = links
            .iter()
            .map(|(at, to)| (Path::new(*at), Path::new(*to)))
            .collect();
        stays_inside(Path::new(which), |path| links.get(path).copied(), &mut 1000)
    }

    #[test]
    fn links_are_followed_like_the_kernel_follows_them() {
        assert!(check(&[("a", "b")], "a").is_ok());
        assert!(check(&[("d/a", "../b")], "d/a").is_ok());
        assert!(check(&[("d/a", "..")], "d/a").is_ok());
        assert!(check(&[("a", ".")], "a").is_ok());
        assert!(check(&[("a", "..")], "a").is_err());
        assert!(check(&[("a", "../x")], "a").is_err());
        assert!(check(&[("d/a", "../../x")], "d/a").is_err());
        assert!(check(&[("a", "b/../../root/x")], "a").is_err());
        assert!(check(&[("a", "a")], "a").is_err());
        assert!(check(&[("a", "b"), ("b", "a")], "a").is_err());
    }

    #[test]
    fn a_link_that_looks_inside_but_goes_through_another_is_caught() {
        let links = [("d/e/up", "../.."), ("d/e/out", "up/../x")];
        assert!(check(&links, "d/e/up").is_ok());
        assert!(check(&links, "d/e/out").is_err());
    }

    proptest! {
        #[test]
        fn an_accepted_name_has_plain_components_only(name in prop::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..40)) {
            if let Ok(path) = entry_path(&name) {
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }
    }
}
