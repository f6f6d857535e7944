//! The `#!` line of a script that is not executable.

use std::{fs::File, io::Read as _, path::Path};

/// Longest line that is understood; the kernel's limit.
const LONGEST: u64 = 256;

const SHELL: &str = "/bin/sh";

/// What runs a file, as words of a shell: its `#!` line, or the shell where it has none.
pub(super) fn of(file: &Path) -> String {
    let mut start = Vec::new();
    let read = File::open(file).and_then(|file| file.take(LONGEST).read_to_end(&mut start));
    match read {
        Ok(_) => interpreter_words(&start).unwrap_or_else(|| SHELL.to_owned()),
        Err(_) => SHELL.to_owned(),
    }
}

/// As the kernel reads it: a path, and all that follows as one argument.
fn interpreter_words(start: &[u8]) -> Option<String> {
    let line = start
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let line = std::str::from_utf8(line).ok()?.trim();
    let (path, argument) = match line.split_once([' ', '\t']) {
        Some((path, argument)) => (path, argument.trim()),
        None => (line, ""),
    };
    match (path, argument) {
        ("", _) => None,
        (path, "") => Some(quoted(path)),
        (path, argument) => Some(format!("{} {}", quoted(path), quoted(argument))),
    }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_read_as_the_kernel_reads_it() {
        for (start, words) in [
            (
                &b"#!/usr/bin/python3\nprint()"[..],
                Some("'/usr/bin/python3'"),
            ),
            (
                b"#! /usr/bin/env  -S awk -f \n",
                Some("'/usr/bin/env' '-S awk -f'"),
            ),
            (b"#!/bin/sh\r\n", Some("'/bin/sh'")),
            (b"#!/it's here", Some("'/it'\\''s' 'here'")),
            (b"#!\n/bin/sh", None),
            (b"#!/\xff\n", None),
            (b"echo", None),
            (b"", None),
        ] {
            assert_eq!(interpreter_words(start).as_deref(), words, "{start:?}");
        }
    }
}
