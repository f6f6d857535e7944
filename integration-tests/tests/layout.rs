//! How the source hangs together: what the files of a crate import of each other goes one way. And
//! that comments are no wider than code.
//!
//! A file and the folder of its name are one thing, so a file and those below it may know each
//! other.

use std::{
    collections::BTreeMap,
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

/// Groups of modules that import each other in a circle.
fn circles(sources: &Sources) -> Vec<Vec<String>> {
    let numbers: BTreeMap<&Module, usize> = sources.keys().zip(0..).collect();
    let mut arrows = DiGraphMap::<usize, ()>::new();
    for (module, files) in sources {
        for path in files.iter().flat_map(|source| Named::of(source)) {
            let Some(to) = target(sources, module, &path) else {
                continue;
            };
            // One of them is the face of the other, or the root of the crate, which only names its
            // parts.
            if !module.starts_with(&to) && !to.starts_with(module) {
                arrows.add_edge(numbers[module], numbers[&to], ());
            }
        }
    }
    let names: Vec<String> = sources.keys().map(|module| module.join("/")).collect();
    let mut circles: Vec<Vec<String>> = tarjan_scc(&arrows)
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
fn a_comment_is_wide_wherever_it_begins() {
    let wide = "x".repeat(WIDTH);
    assert!(is_too_wide(&format!("    /// {wide}")));
    assert!(!is_too_wide(&format!("// {}", &wide[3..])));
    assert!(!is_too_wide(&format!("let text = \"{wide}\";")));
}

#[test]
fn a_circle_is_found_however_it_is_spelt() {
    let sources = |files: &[(&str, &str)]| -> Sources {
        let module = |path: &str| -> Module {
            let names = path.split('/').filter(|name| !name.is_empty());
            names.map(str::to_owned).collect()
        };
        let source = |(path, source): &(&str, &str)| (module(path), vec![(*source).to_owned()]);
        files.iter().map(source).collect()
    };
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
