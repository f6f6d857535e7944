//! Which names an archive may contain; pure functions, tested with many inputs.

/// Longest path, in bytes; the rest of the kernel's 4096 belongs to the folder it is unpacked into.
const MAX_PATH_BYTES: usize = 2048;

/// Deepest nesting. Real trees are far below; an invented one would cost memory at each level.
const MAX_DEPTH: usize = 128;

/// Longest name of a single file.
const MAX_NAME_BYTES: usize = 255;

/// A path within an archive: plain components with `/` between them; empty is the root.
///
/// The bytes are those of the archive, so that every platform decides alike. In their order a
/// folder comes before its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryPath(Vec<u8>);

impl EntryPath {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn depth(&self) -> usize {
        components(&self.0).count()
    }

    /// The last component.
    pub(super) fn name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }

    /// The folder it is in; none for the root.
    pub(super) fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0.get(..end).unwrap_or_default().to_vec()))
    }

    pub(super) fn join(&self, below: &[u8]) -> Self {
        let mut path = self.clone();
        for component in components(below) {
            path.push(component);
        }
        path
    }

    /// The rest of the path below a folder; none when it is not the folder or in it.
    pub(super) fn below(&self, folder: &Self) -> Option<Self> {
        if folder.is_root() {
            return Some(self.clone());
        }
        match self.0.strip_prefix(folder.as_bytes())? {
            [] => Some(Self::default()),
            [b'/', rest @ ..] => Some(Self(rest.to_vec())),
            _ => None,
        }
    }

    fn push(&mut self, component: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(component);
    }

    /// Removes the last component; false when there is none.
    fn pop(&mut self) -> bool {
        match self.parent() {
            Some(parent) => {
                *self = parent;
                true
            }
            None => false,
        }
    }
}

/// Turns the name of an entry into a path of plain components; empty for the root itself.
pub(super) fn entry_path(name: &[u8]) -> Result<EntryPath, &'static str> {
    if name.is_empty() {
        return Err("has no name");
    }
    if name.starts_with(b"/") {
        return Err("is an absolute path");
    }
    check_bytes(name)?;
    let mut path = EntryPath::default();
    let mut depth = 0;
    for component in components(name) {
        match component {
            b".." => return Err("climbs out of its folder with `..`"),
            name if name.len() > MAX_NAME_BYTES => return Err("has a name longer than 255 bytes"),
            name => path.push(name),
        }
        depth += 1;
    }
    if depth > MAX_DEPTH {
        return Err("is nested deeper than 128 folders");
    }
    Ok(path)
}

/// Checks the text of a symbolic link; whether it stays inside is decided once the tree is known.
pub(super) fn link_target(target: &[u8]) -> Result<Vec<u8>, &'static str> {
    if target.is_empty() {
        return Err("is a symbolic link to nothing");
    }
    check_bytes(target)?;
    Ok(target.to_vec())
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
/// `link_at` says where a path is itself a symbolic link, and to what. What does not exist is taken
/// for a plain folder. Fails when the way leaves the root, even if it came back, and when `budget`,
/// in steps, is used up.
pub(super) fn stays_inside<'a>(
    link: &EntryPath,
    link_at: impl Fn(&EntryPath) -> Option<&'a [u8]>,
    budget: &mut u64,
) -> Result<(), &'static str> {
    // The kernel gives up after as many.
    const MAX_HOPS: usize = 40;
    let mut here = EntryPath::default();
    let mut ahead = steps(link.as_bytes());
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
        here.push(&step);
        if let Some(target) = link_at(&here) {
            if target.starts_with(b"/") {
                return Err("is a symbolic link to an absolute path");
            }
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
fn steps(path: &[u8]) -> Vec<Vec<u8>> {
    let mut steps: Vec<_> = components(path).map(<[u8]>::to_vec).collect();
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::ffi::OsStrExt as _};

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
                Ok(EntryPath(path.into())),
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

    #[test]
    fn paths_are_taken_apart_and_put_together() {
        let path = |text: &str| EntryPath(text.into());
        assert_eq!(path("a/bc").parent(), Some(path("a")));
        assert_eq!(path("a").parent(), Some(path("")));
        assert_eq!(path("").parent(), None);
        assert_eq!(
            (path("a/bc").name(), path("").name()),
            (&b"bc"[..], &b""[..])
        );
        assert_eq!(path("").join(b"a/./b"), path("a/b"));
        for (whole, folder, rest) in [
            ("a/b", "", Some("a/b")),
            ("a/b", "a", Some("b")),
            ("a", "a", Some("")),
            ("ab", "a", None),
            ("a", "a/b", None),
        ] {
            assert_eq!(path(whole).below(&path(folder)), rest.map(path), "{whole}");
        }
    }

    fn check(links: &[(&str, &str)], which: &str) -> Result<(), &'static str> {
        let links: BTreeMap<&[u8], &[u8]> = links
            .iter()
            .map(|(at, to)| (at.as_bytes(), to.as_bytes()))
            .collect();
        let link_at = |path: &EntryPath| links.get(path.as_bytes()).copied();
        stays_inside(&EntryPath(which.into()), link_at, &mut 1000)
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
        assert!(check(&[("a", "/etc")], "a").is_err());
        assert!(check(&[("a", "b/x"), ("b", "/etc")], "a").is_err());
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
                let own = std::path::Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
                prop_assert!(own.components().all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert_eq!(own.components().count(), path.depth());
            }
        }
    }
}
