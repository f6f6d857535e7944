//! Keeps the floors of the store: arrows between files go down only, and no two files use each
//! other.
//!
//! Read from the `use` lines, which name a file of the store as `crate::store::<floor>::<file>`,
//! and from paths in the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// From the lowest to the highest.
const FLOORS: [&str; 4] = ["db", "entity", "read", "write"];

/// Calls that change rows. None of them belongs into `read`.
const CHANGES: [&str; 8] = [
    ".write(",
    ".write_as(",
    ".write_beside",
    ".decide(",
    ".decide_as(",
    "insert_all",
    "update_many",
    "delete_",
];

/// Statements that are written as text.
const RAW: [&str; 7] = [
    "SELECT ",
    "PRAGMA ",
    "\"excluded\"",
    "Func::cust",
    "Expr::cust",
    "from_sql_and_values",
    "sqlx::query(",
];

/// A file as its floor and its name.
type File = (String, String);

/// The code of each file, without comments and tests.
fn files() -> BTreeMap<File, String> {
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let mut files = BTreeMap::new();
    for floor in FLOORS {
        for entry in fs::read_dir(store.join(floor)).expect("the folder of a floor") {
            let path = entry.expect("an entry").path();
            assert!(path.is_file(), "{}: a file of one floor", path.display());
            let name = path
                .file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            let code = fs::read_to_string(&path).expect("source text");
            files.insert((floor.to_owned(), name), code_only(&code));
        }
    }
    files
}

fn code_only(text: &str) -> String {
    let code = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(text);
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// All paths of a text under `crate::store`, each as its segments. Groups in braces are spelled
/// out.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        spell_out(
            &mut code[at + "crate::".len()..].chars().peekable(),
            &mut Vec::new(),
            &mut found,
        );
    }
    found.retain(|path| path.first().is_some_and(|first| first == "store"));
    for path in &mut found {
        path.remove(0);
    }
    found
}

/// Reads one item of a `use` tree behind `prefix`. Stops at the end of the item.
fn spell_out(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    prefix: &mut Vec<String>,
    found: &mut Vec<Vec<String>>,
) {
    let depth = prefix.len();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.next_if_eq(&'{').is_some() {
            loop {
                spell_out(rest, prefix, found);
                while rest.next_if(|c| c.is_whitespace()).is_some() {}
                match rest.next() {
                    Some(',') => {}
                    _ => break,
                }
                while rest.next_if(|c| c.is_whitespace()).is_some() {}
                if rest.next_if_eq(&'}').is_some() {
                    break;
                }
            }
            break;
        }
        let mut word = String::new();
        while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || matches!(c, '_' | '*')) {
            word.push(c);
        }
        if word.is_empty() {
            break;
        }
        prefix.push(word);
        if rest.next_if_eq(&':').is_none() {
            found.push(prefix.clone());
            // An alias is no part of the path.
            while rest.next_if(|c| !matches!(c, ',' | '}' | ';')).is_some() {}
            break;
        }
        rest.next_if_eq(&':');
    }
    prefix.truncate(depth);
}

/// The files that each file uses.
fn arrows(files: &BTreeMap<File, String>) -> BTreeMap<File, BTreeSet<File>> {
    let used = |(file, code): (&File, &String)| {
        let used = paths(code).into_iter().filter_map(|path| {
            let [floor, name, ..] = &path[..] else {
                return None;
            };
            FLOORS
                .contains(&floor.as_str())
                .then(|| (floor.clone(), name.clone()))
        });
        (file.clone(), used.filter(|used| used != file).collect())
    };
    files.iter().map(used).collect()
}

/// The files that are left after those that use nothing are taken away, again and again.
fn circles(mut arrows: BTreeMap<File, BTreeSet<File>>) -> BTreeSet<File> {
    loop {
        let left: BTreeSet<File> = arrows.keys().cloned().collect();
        for used in arrows.values_mut() {
            used.retain(|file| left.contains(file));
        }
        arrows.retain(|_, used| !used.is_empty());
        if arrows.len() == left.len() {
            return left;
        }
    }
}

fn height(file: &File) -> usize {
    let floor = FLOORS.iter().position(|floor| *floor == file.0);
    floor.expect("a floor")
}

#[test]
fn arrows_between_files_of_the_store_go_down_and_in_no_circle() {
    let files = files();
    let arrows = arrows(&files);
    assert!(files.len() > 100, "{}: the files were found", files.len());
    let count: usize = arrows.values().map(BTreeSet::len).sum();
    assert!(count > 300, "{count}: their uses were found");
    let unknown = |used: &&File| !files.contains_key(*used);
    let unknown: Vec<_> = arrows.values().flatten().filter(unknown).collect();
    assert!(unknown.is_empty(), "no such file: {unknown:?}");
    let up = |file: &File, used: &File| height(used) > height(file);
    let up: Vec<(&File, &File)> = arrows
        .iter()
        .flat_map(|(file, used)| used.iter().map(move |used| (file, used)))
        .filter(|(file, used)| up(file, used))
        .collect();
    assert!(up.is_empty(), "{up:#?}");
    let circles = circles(arrows);
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn a_file_of_the_store_is_named_by_its_whole_path() {
    for (file, code) in files() {
        let near = code.match_indices("super::").next();
        assert_eq!(
            near, None,
            "{file:?}: `crate::store::...` shows where the arrow goes"
        );
    }
}

#[test]
fn who_asks_changes_nothing() {
    for (file, code) in files().iter().filter(|(file, _)| file.0 == "read") {
        for change in CHANGES {
            assert!(!code.contains(change), "{file:?}: `{change}`");
        }
    }
}

#[test]
fn what_operators_ask_begins_with_what_they_may_see() {
    let mut views = 0;
    for (file, code) in files() {
        for view in code.split("impl View {\n").skip(1) {
            let (view, _) = view.split_once("\n}").expect("its end");
            let past = view.contains("Entity::find");
            assert!(
                !past,
                "{file:?}: `self.rows()` begins a statement of a view"
            );
            views += 1;
        }
    }
    assert!(views >= 15, "{views}: they were found");
}

/// The code of a folder and of those below it, by path.
fn code_below(folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            code_below(&path, found);
        } else {
            let code = fs::read_to_string(&path).expect("source text");
            found.insert(path.display().to_string(), code_only(&code));
        }
    }
}

#[test]
fn handlers_take_what_may_be_seen_from_their_caller() {
    let mut code = BTreeMap::new();
    let api = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    code_below(&api, &mut code);
    assert!(code.len() > 30, "{}: they were found", code.len());
    code.retain(|_, code| code.contains("Scope::Everything"));
    let files: Vec<&str> = code.keys().map(String::as_str).collect();
    // The bytes of bundles are shared, so all bundles are asked before they are deleted.
    assert!(
        matches!(files[..], [one] if one.ends_with("api/bundles.rs")),
        "{files:?}"
    );
}

#[test]
fn raw_text_stands_in_one_file() {
    let said = |code: &String| RAW.iter().any(|raw| code.contains(raw));
    let files = files();
    let files: Vec<_> = files.iter().filter(|(_, code)| said(code)).collect();
    let names: Vec<_> = files.iter().map(|(file, _)| file.1.as_str()).collect();
    assert_eq!(names, ["raw"]);
}

#[test]
fn arrows_and_circles_are_found() {
    let code = "use crate::{clock::Clock, store::{db::{error::{Result, StoreError}, page}, read::events as happened}};
        fn ask() { crate::store::write::prune::DAY }";
    let path = |text: &str| text.split("::").map(str::to_owned).collect::<Vec<_>>();
    let expected = [
        "db::error::Result",
        "db::error::StoreError",
        "db::page",
        "read::events",
        "write::prune::DAY",
    ];
    assert_eq!(paths(code), expected.map(path));
    let file = |name: &str| ("db".to_owned(), name.to_owned());
    let arrow = |(from, to): (&str, &str)| (file(from), BTreeSet::from([file(to)]));
    let tower = [("a", "b"), ("b", "c"), ("c", "d")].map(arrow);
    assert!(circles(BTreeMap::from(tower.clone())).is_empty());
    let mut circle = BTreeMap::from(tower);
    circle.insert(file("d"), BTreeSet::from([file("b")]));
    assert!(circles(circle).contains(&file("b")));
}
