//! `explain`: what a word means. The text comes from the glossary, so it is written once.

use crate::{
    error::{Exit, Failure},
    output::emit,
};

const GLOSSARY: &str = include_str!("../../../docs/glossary.md");

/// A word and what it means.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    /// Heading of its section, such as "Failure reason".
    section: &'a str,
    words: &'a str,
    meaning: &'a str,
}

pub(crate) fn run(word: Option<&str>) -> Result<(), Failure> {
    let entries = entries(GLOSSARY);
    let found: Vec<&Entry<'_>> = match word {
        None => entries.iter().collect(),
        Some(word) => entries.iter().filter(|entry| entry.has(word)).collect(),
    };
    if found.is_empty() {
        let word = word.unwrap_or_default();
        return Err(Failure::new(
            Exit::NotFoundOrConflict,
            format!("there is no word `{word}`"),
            "See all of them with `kernexctl explain`.",
        ));
    }
    let lines = found.iter().map(|entry| {
        format!(
            "{} ({}): {}\n",
            entry.words.replace('`', ""),
            entry.section.to_lowercase(),
            entry.meaning.replace('`', "").trim()
        )
    });
    emit(&lines.collect::<String>())
}

/// Every row of every table that has a word and a meaning.
fn entries(glossary: &str) -> Vec<Entry<'_>> {
    let mut section = "";
    let mut entries = Vec::new();
    // Where the meaning stands in the table; none outside of tables.
    let mut column = None;
    for line in glossary.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", words, .., ""] = cells.as_slice() else {
            column = None;
            continue;
        };
        let Some(column) = column else {
            // The first row of a table names its columns.
            column = cells.iter().position(|title| *title == "meaning");
            continue;
        };
        let meaning = cells.get(column).copied().unwrap_or_default();
        if !words.starts_with("---") {
            entries.push(Entry {
                section,
                words,
                meaning,
            });
        }
    }
    entries
}

/// Every word that is explained, with what it means.
pub(crate) fn words() -> Vec<(String, String)> {
    let entries = entries(GLOSSARY).into_iter();
    let words = entries.flat_map(|entry| {
        let words = entry.words.replace('`', "");
        let meaning = entry.meaning.replace('`', "");
        let words: Vec<String> = words.split(", ").map(str::to_owned).collect();
        words.into_iter().map(move |word| (word, meaning.clone()))
    });
    words.collect()
}

impl Entry<'_> {
    /// Whether it explains this word, in whatever case and however its parts are joined.
    fn has(&self, word: &str) -> bool {
        let plain = |text: &str| {
            text.trim()
                .replace(['`', '_', '-'], " ")
                .trim()
                .to_lowercase()
        };
        let mut words = self.words.split([',', '/']).map(plain);
        words.any(|known| known == plain(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_states_reasons_and_things_are_found() {
        let entries = entries(GLOSSARY);
        assert!(entries.len() > 60, "{}", entries.len());
        let sections = |word: &str| {
            let found = entries.iter().filter(|entry| entry.has(word));
            found.map(|entry| entry.section).collect::<Vec<_>>()
        };
        assert_eq!(sections("disk_full"), ["Failure reason"]);
        assert!(sections("Superseded").contains(&"Attempt"));
        assert_eq!(sections("canary").len(), 1);
        assert_eq!(sections("nonsense"), [""; 0]);
        for entry in &entries {
            assert!(entry.meaning.len() > 3, "{entry:?}");
            assert!(!["yes", "no", "open", "meaning"].contains(&entry.meaning));
            assert!(
                !["state", "word", "reason"].contains(&entry.words),
                "{entry:?}"
            );
        }
        let superseded = entries.iter().filter(|entry| entry.has("superseded"));
        let meanings: Vec<&str> = superseded.map(|entry| entry.meaning).collect();
        assert!(
            meanings
                .iter()
                .any(|meaning| meaning.contains("replaced it before it began")),
            "{meanings:?}"
        );
    }
}
