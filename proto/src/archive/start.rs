//! How a file starts: enough to tell a script that cannot run.

/// Most bytes that are looked at: first lines are short.
const LOOKED_AT: usize = 4096;

/// What the first line of a file says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Start {
    /// It names an interpreter with `#!`.
    pub(super) names_interpreter: bool,
    /// It is text and ends as on Windows.
    pub(super) has_windows_end: bool,
}

/// The first line of a file, whose bytes come in pieces.
#[derive(Debug, Default)]
pub(super) struct FirstLine {
    start: Start,
    looked_at: usize,
    last: u8,
    done: bool,
}

impl FirstLine {
    pub(super) fn read_piece(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.done {
                return;
            }
            match (self.looked_at, byte) {
                (1, b'!') if self.last == b'#' => self.start.names_interpreter = true,
                (_, b'\n') => {
                    self.start.has_windows_end = self.last == b'\r';
                    self.done = true;
                }
                // A program, not a text.
                (_, 0) => self.done = true,
                _ => {}
            }
            self.last = *byte;
            self.looked_at += 1;
            self.done |= self.looked_at >= LOOKED_AT;
        }
    }

    pub(super) fn start(&self) -> Start {
        self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_understood_however_it_comes() {
        for (bytes, names_interpreter, has_windows_end) in [
            (&b"#!/bin/sh\r\necho\r\n"[..], true, true),
            (b"#!/bin/sh\necho\r\n", true, false),
            (b"echo\r\n", false, true),
            (b"\x7fELF\0\r\n", false, false),
            (b"#", false, false),
            (b"", false, false),
            (b"#!/bin/sh", true, false),
        ] {
            let wanted = Start {
                names_interpreter,
                has_windows_end,
            };
            for size in 1..=bytes.len().max(1) {
                let mut line = FirstLine::default();
                bytes.chunks(size).for_each(|piece| line.read_piece(piece));
                assert_eq!(line.start(), wanted, "{bytes:?} in pieces of {size}");
            }
        }
    }
}
