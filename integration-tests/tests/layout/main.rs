//! How the source hangs together. Files of a crate import each other in one direction only. In the
//! server that direction is from the upper floors to the lower ones, and its rules know neither the
//! contract nor a database. All statuses of the server come from one table. Comments and documents
//! are no wider than code, and no struct or function of the programs has too many parts.
//!
//! A file and the folder of its name are one thing, so a file and those below it may know each
//! other.

mod comments;
mod rules;
mod sizes;
mod statuses;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use petgraph::{algo::tarjan_scc, graphmap::DiGraphMap};
use syn::{
    Attribute, ItemMod, ItemUse, UseTree,
    visit::{self, Visit},
};

const CRATES: [&str; 6] = [
    "proto",
    "migrations",
    "server",
    "agent",
    "cli",
    "integration-tests",
];

/// The floors of the server from the highest to the lowest, as the modules that begin them. A
/// module uses its own floor and those below it. It stands where the longest path that leads to it
/// stands: `delivery/in_flight` is below the store although the rest of `delivery` is above it,
/// because the store asks it before it decides about an attempt.
const FLOORS: [&[&str]; 14] = [
    &[
        "",
        "allocator",
        "assembly",
        "config",
        "parts",
        "startup",
        "supervise",
    ],
    &["api"],
    &["session", "preflight"],
    &["upkeep"],
    &["edge"],
    &["recorder"],
    &["delivery"],
    &["error"],
    &[
        "api/bundles/upload/error",
        "delivery/end_reason",
        "enrollment",
        "session/error",
    ],
    &["store", "blobs"],
    &["delivery/in_flight", "metrics", "revocations"],
    &["wire"],
    &["domain"],
    &[
        "backoff",
        "clock",
        "crash",
        "lifecycle",
        "log_queue",
        "signature",
    ],
];

/// Path of a module below the root of its crate, which has none.
type Module = Vec<String>;

/// The files of each module: one, but of a root that is a library and a program.
type Sources = BTreeMap<Module, Vec<String>>;

/// Every path that a file names, outside of its tests.
#[derive(Default)]
struct Named(Vec<Vec<String>>);

impl Named {
    fn of(source: &str) -> Vec<Vec<String>> {
        let mut named = Self::default();
        named.visit_file(&syn::parse_file(source).expect("it compiles"));
        named.0
    }

    fn flatten(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.flatten(&path.tree, &with(path.ident.to_string())),
            UseTree::Name(name) => self.0.push(with(name.ident.to_string())),
            UseTree::Rename(rename) => self.0.push(with(rename.ident.to_string())),
            UseTree::Glob(_) => self.0.push(before.to_vec()),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.flatten(tree, before);
                }
            }
        }
    }
}

fn is_of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg = attribute.path().is_ident("cfg");
        is_cfg
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|condition| condition == "test")
    })
}

impl<'ast> Visit<'ast> for Named {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_of_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_of_tests(&item.attrs) {
            self.flatten(&item.tree, &[]);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string());
        self.0.push(segments.collect());
        visit::visit_path(self, path);
    }
}

/// The module that a path leads to from a module; none when it leads out of the crate.
fn target(sources: &Sources, from: &Module, path: &[String]) -> Option<Module> {
    let (mut at, mut rest) = match path.first()?.as_str() {
        "crate" => (Module::new(), &path[1..]),
        "self" => (from.clone(), &path[1..]),
        "super" => (from.clone(), path),
        name if sources.contains_key(&[from.as_slice(), &[name.to_owned()]].concat()) => {
            (from.clone(), path)
        }
        _ => return None,
    };
    while let Some(("super", after)) = rest
        .split_first()
        .map(|(name, after)| (name.as_str(), after))
    {
        at.pop();
        rest = after;
    }
    for name in rest {
        let below = [at.as_slice(), std::slice::from_ref(name)].concat();
        if !sources.contains_key(&below) {
            break;
        }
        at = below;
    }
    Some(at)
}

/// Which module imports which. One that is the face of the other, or the root of the crate, which
/// only names its parts, does not count.
fn arrows(sources: &Sources) -> Vec<(&Module, Module)> {
    let mut arrows = Vec::new();
    for (module, files) in sources {
        for path in files.iter().flat_map(|source| Named::of(source)) {
            let to = target(sources, module, &path);
            let to = to.filter(|to| !module.starts_with(to) && !to.starts_with(module));
            arrows.extend(to.map(|to| (module, to)));
        }
    }
    arrows
}

/// Groups of modules that import each other in a circle.
fn circles(sources: &Sources) -> Vec<Vec<String>> {
    let numbers: BTreeMap<&Module, usize> = sources.keys().zip(0..).collect();
    let mut graph = DiGraphMap::<usize, ()>::new();
    for (from, to) in arrows(sources) {
        graph.add_edge(numbers[from], numbers[&to], ());
    }
    let names: Vec<String> = sources.keys().map(|module| module.join("/")).collect();
    let mut circles: Vec<Vec<String>> = tarjan_scc(&graph)
        .into_iter()
        .filter(|group| group.len() > 1)
        .map(|group| {
            group
                .into_iter()
                .map(|number| names[number].clone())
                .collect()
        })
        .collect();
    for circle in &mut circles {
        circle.sort();
    }
    circles.sort();
    circles
}

/// A path like `store/db` as a module; the empty one is the root.
fn module(path: &str) -> Module {
    let names = path.split('/').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// The floor a module stands on, counted from the top; none when nobody said where.
fn floor(floors: &[&[&str]], of: &Module) -> Option<usize> {
    let begins = floors
        .iter()
        .zip(0..)
        .flat_map(|(begins, floor)| begins.iter().map(move |begin| (floor, module(begin))));
    let leading = begins.filter(|(_, begin)| match begin.is_empty() {
        true => of.is_empty(),
        false => of.starts_with(begin),
    });
    let longest = leading.max_by_key(|(_, begin)| begin.len());
    longest.map(|(floor, _)| floor)
}

/// What goes from a lower floor to a higher one.
fn upward(floors: &[&[&str]], sources: &Sources) -> BTreeSet<String> {
    let up = |(from, to): &(&Module, Module)| floor(floors, to) < floor(floors, from);
    let up = arrows(sources).into_iter().filter(up);
    up.map(|(from, to)| format!("{} -> {}", from.join("/"), to.join("/")))
        .collect()
}

fn read(folder: &Path, at: &Module, sources: &mut Sources) {
    for entry in fs::read_dir(folder).expect("a folder of source") {
        let path = entry.expect("an entry").path();
        let stem = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        // Tests may reach into everything, and programs stand above their library.
        if stem == "tests" || stem.ends_with("_tests") || stem == "bin" {
            continue;
        }
        let module = [at.as_slice(), std::slice::from_ref(&stem)].concat();
        if path.is_dir() {
            read(&path, &module, sources);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let source = fs::read_to_string(&path).expect("source");
            let is_root = at.is_empty() && (stem == "lib" || stem == "main");
            let module = if is_root { Module::new() } else { module };
            sources.entry(module).or_default().push(source);
        }
    }
}

fn top() -> PathBuf {
    let below = Path::new(env!("CARGO_MANIFEST_DIR"));
    below.parent().expect("the workspace").to_owned()
}

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    for name in CRATES {
        let mut sources = Sources::new();
        read(&top().join(name).join("src"), &Module::new(), &mut sources);
        assert!(sources.contains_key(&Module::new()), "{name} has a root");
        let circles = circles(&sources);
        assert!(
            circles.is_empty(),
            "files of {name} that import each other: {circles:#?}"
        );
    }
}

#[test]
fn files_of_the_server_use_their_own_floor_and_those_below() {
    let mut sources = Sources::new();
    let folder = top().join("server/src");
    read(&folder, &Module::new(), &mut sources);
    for module in sources.keys() {
        let found = floor(&FLOORS, module);
        assert!(
            found.is_some(),
            "{}: on which floor is it?",
            module.join("/")
        );
    }
    for begin in FLOORS.iter().copied().flatten() {
        assert!(
            sources.contains_key(&module(begin)),
            "{begin}: there is no such file"
        );
    }
    assert!(arrows(&sources).len() > 500, "what they use was found");
    let upward = upward(&FLOORS, &sources);
    assert!(upward.is_empty(), "these use a higher floor: {upward:#?}");
}

fn sources(files: &[(&str, &str)]) -> Sources {
    let source = |(path, source): &(&str, &str)| (module(path), vec![(*source).to_owned()]);
    files.iter().map(source).collect()
}

#[test]
fn an_import_of_a_higher_floor_is_found_and_the_longest_path_decides() {
    let floors: [&[&str]; 3] = [&["", "a"], &["b"], &["a/low", "c"]];
    let sources = sources(&[
        ("", "mod a; mod b; mod c;"),
        ("a", "mod low; use crate::{b, c};"),
        ("a/low", "use crate::b::B;"),
        ("ab", ""),
        ("b", "use crate::{a::low::L, c::C};"),
        ("b/part", "fn x() { crate::a::y() }"),
        ("c", "#[cfg(test)] mod tests { use crate::b::B; }"),
    ]);
    let expected = ["a/low -> b", "b/part -> a"].map(str::to_owned);
    assert_eq!(upward(&floors, &sources), BTreeSet::from(expected));
    let of = |path: &str| floor(&floors, &module(path));
    assert_eq!(
        ["a", "a/x", "a/low", "a/low/x", "ab"].map(of),
        [Some(0), Some(0), Some(2), Some(2), None]
    );
}

#[test]
fn an_import_circle_is_found_however_it_is_written() {
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a [&'a str]]);
    let table: [Case<'_>; 6] = [
        (
            &[
                ("", "mod a; mod b;"),
                ("a", "use crate::b::B;"),
                ("b", "struct B;"),
            ],
            &[],
        ),
        (
            &[
                ("", ""),
                ("a", "use crate::b::B;"),
                ("b", "use super::{a, c::{D, E as F}};"),
                ("c", ""),
            ],
            &[&["a", "b"]],
        ),
        (
            &[
                ("", ""),
                ("a", "fn x() { crate::b::y() }"),
                ("b", "use crate::a;"),
                ("c", "use crate::a::*;"),
            ],
            &[&["a", "b"]],
        ),
        // A file and those below it.
        (
            &[
                ("", ""),
                ("a", "mod b; use b::B;"),
                ("a/b", "use super::A;"),
            ],
            &[],
        ),
        (
            &[
                ("", ""),
                ("a", "mod b; mod c;"),
                ("a/b", "use super::c::C;"),
                ("a/c", "use crate::a::b::B;"),
            ],
            &[&["a/b", "a/c"]],
        ),
        // Tests look wherever they like.
        (
            &[
                ("", ""),
                ("a", "use crate::b::B;"),
                ("b", "#[cfg(test)] mod tests { use crate::a::A; }"),
            ],
            &[],
        ),
    ];
    for (files, expected) in table {
        assert_eq!(circles(&sources(files)), expected, "{files:?}");
    }
}
