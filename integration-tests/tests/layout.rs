//! How the source hangs together. Files of a crate import each other in one direction only. In the
//! server that direction is from the upper floors to the lower ones, and its rules know neither the
//! contract nor a database. All statuses of the server come from one table. Comments are no wider
//! than code.
//!
//! A file and the folder of its name are one thing, so a file and those below it may know each
//! other.

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
    &["backoff", "clock", "crash", "lifecycle", "signature"],
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

/// Whether a path leads out of the rules: into the contract (but for its ids and digests), into a
/// library for the wire or a database, or into another part of the server (but for its timestamps).
fn leads_out_of_the_rules(path: &[String]) -> bool {
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    match names[..] {
        ["kernex_proto", second, ..] => second != "ids" && second != "digest",
        ["kernex_proto"] => true,
        ["crate", second, ..] => second != "domain" && second != "clock",
        [first, ..] => matches!(
            first,
            "v1" | "prost" | "prost_types" | "tonic" | "sea_orm" | "sqlx"
        ),
        [] => false,
    }
}

#[test]
fn the_rules_know_neither_the_contract_nor_a_database() {
    let server = top().join("server").join("src");
    let mut rules = Sources::new();
    let domain = vec!["domain".to_owned()];
    read(&server.join("domain"), &domain, &mut rules);
    let face = fs::read_to_string(server.join("domain.rs")).expect("source");
    rules.insert(domain, vec![face]);
    assert!(rules.len() > 10, "the rules are there");
    let mut out = Vec::new();
    for (module, files) in &rules {
        let named = files.iter().flat_map(|source| Named::of(source));
        let named = named.filter(|path| leads_out_of_the_rules(path));
        out.extend(named.map(|path| format!("{}: {}", module.join("/"), path.join("::"))));
    }
    assert!(out.is_empty(), "paths that lead out of the rules: {out:#?}");
}

#[test]
fn a_way_out_of_the_rules_is_found_however_it_is_spelt() {
    let out = |source: &str| {
        let named = Named::of(source);
        named.iter().any(|path| leads_out_of_the_rules(path))
    };
    for source in [
        "use kernex_proto::v1;",
        "use kernex_proto::{ids::Digest, v1::{Outcome, Stop}};",
        "fn f(stop: &kernex_proto::v1::Stop) {}",
        "fn f() -> v1::Disposition { v1::Disposition::Applied }",
        "use crate::wire::same_words;",
        "use tonic::Status;",
    ] {
        assert!(out(source), "{source}");
    }
    for source in [
        "use kernex_proto::ids::{Digest, DeviceId};",
        "use crate::{clock::Timestamp, domain::attempt::State};",
        "#[cfg(test)] mod tests { use kernex_proto::v1; }",
    ] {
        assert!(!out(source), "{source}");
    }
}

/// How a `tonic::Status` that says an error can be made.
const MAKERS: [&str; 21] = [
    "new",
    "with_details",
    "with_metadata",
    "with_details_and_metadata",
    "with_error_details",
    "from_error",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "unauthenticated",
];

/// Lines outside of tests that make a status. By their text, because a macro hides its paths.
fn makes_statuses(source: &str) -> Vec<&str> {
    let code = source.split("#[cfg(test)]\nmod tests {").next();
    let lines = code.unwrap_or_default().lines();
    let is_one = |line: &&str| {
        line.match_indices("Status::").any(|(at, found)| {
            let is_end_of_a_name = line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let (maker, _) = line[at + found.len()..].split_once('(').unwrap_or_default();
            !is_end_of_a_name && MAKERS.contains(&maker)
        })
    };
    lines.filter(is_one).collect()
}

#[test]
fn every_status_of_the_server_comes_from_one_table() {
    let mut sources = Sources::new();
    let server = top().join("server").join("src");
    read(&server, &Module::new(), &mut sources);
    let makers = sources.iter().flat_map(|(module, files)| {
        let lines = files.iter().flat_map(|source| makes_statuses(source));
        lines.map(move |line| (module.join("/"), line.trim()))
    });
    let is_of_the_table = |module: &str| module == "error" || module.starts_with("error/");
    let (of_the_table, others): (Vec<_>, Vec<_>) =
        makers.partition(|(module, _)| is_of_the_table(module));
    assert!(
        others.is_empty(),
        "statuses outside of error.rs: {others:#?}"
    );
    assert!(
        of_the_table.len() > 3,
        "the table is read: {of_the_table:?}"
    );
}

#[test]
fn a_status_is_found_wherever_it_is_made() {
    for source in [
        "Err(Status::internal(\"x\"))",
        "tonic::Status::with_error_details(code, message, details)",
        "stream! { yield Err(Status::aborted(\"x\")) }",
    ] {
        assert_eq!(makes_statuses(source).len(), 1, "{source}");
    }
    for source in [
        "device: v1::DeviceStatus::from(device.status)",
        "Status::from(error)",
        "let end = Status::ok(\"\");",
        "#[cfg(test)]\nmod tests {\n Status::internal(\"x\")",
    ] {
        assert!(makes_statuses(source).is_empty(), "{source}");
    }
}

/// Columns of a line, in code as in comments.
const WIDTH: usize = 100;

fn is_too_wide(line: &str) -> bool {
    line.trim_start().starts_with("//") && line.chars().count() > WIDTH
}

#[test]
fn comments_are_no_wider_than_code() {
    let mut folders: Vec<PathBuf> = CRATES.iter().map(|name| top().join(name)).collect();
    let mut wide = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of source") {
            let path = entry.expect("an entry").path();
            let is_source = path
                .extension()
                .is_some_and(|end| end == "rs" || end == "proto");
            if path.is_dir() {
                folders.push(path);
            } else if is_source {
                let source = fs::read_to_string(&path).expect("source");
                let lines = source
                    .lines()
                    .zip(1..)
                    .filter(|(line, _)| is_too_wide(line));
                wide.extend(lines.map(|(_, number)| format!("{}:{number}", path.display())));
            }
        }
    }
    assert!(wide.is_empty(), "comments past {WIDTH} columns: {wide:#?}");
}

#[test]
fn the_width_of_a_comment_counts_its_indentation() {
    let wide = "x".repeat(WIDTH);
    assert!(is_too_wide(&format!("    /// {wide}")));
    assert!(!is_too_wide(&format!("// {}", &wide[3..])));
    assert!(!is_too_wide(&format!("let text = \"{wide}\";")));
}

fn sources(files: &[(&str, &str)]) -> Sources {
    let source = |(path, source): &(&str, &str)| (module(path), vec![(*source).to_owned()]);
    files.iter().map(source).collect()
}

#[test]
fn what_goes_up_is_found_and_the_longest_path_says_the_floor() {
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
