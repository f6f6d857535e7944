//! Comments are no wider than code.

use std::{fs, path::PathBuf};

use super::{CRATES, top};

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
