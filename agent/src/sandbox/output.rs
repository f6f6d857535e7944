//! The output of an attempt's scripts: its head and its tail, however much there is.

use std::collections::VecDeque;

use kernex_proto::OUTPUT_TAIL_LIMIT;

/// Bytes kept of the beginning.
const HEAD: usize = 4 * 1024;
/// Room for the line that says how much is missing.
const GAP_LINE: usize = 64;
/// Bytes kept of the end.
const TAIL: usize = OUTPUT_TAIL_LIMIT - HEAD - GAP_LINE;

/// Keeps a bounded part of any amount of output.
#[derive(Debug, Default)]
pub(crate) struct Output {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    skipped: u64,
}

impl Output {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
        self.head.extend_from_slice(head);
        let (lost, rest) = rest.split_at(rest.len().saturating_sub(TAIL));
        self.skipped += lost.len() as u64;
        let surplus = (self.tail.len() + rest.len()).saturating_sub(TAIL);
        self.skipped += surplus as u64;
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// The output as text of at most [`OUTPUT_TAIL_LIMIT`] bytes, valid UTF-8 whatever came.
    pub(crate) fn text(&self) -> String {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let mut text = if self.skipped == 0 {
            // Kept together, a character across the seam stays whole.
            String::from_utf8_lossy(&[self.head.as_slice(), &tail].concat()).into_owned()
        } else {
            format!(
                "{}\n[... {} bytes left out ...]\n{}",
                String::from_utf8_lossy(&self.head),
                self.skipped,
                String::from_utf8_lossy(&tail)
            )
        };
        // A replacement character is longer than the byte it stands for.
        if text.len() > OUTPUT_TAIL_LIMIT {
            let start = text.ceil_char_boundary(text.len() - OUTPUT_TAIL_LIMIT);
            text.drain(..start);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_more_than_the_limit(chunks in prop::collection::vec((any::<u8>(), 0usize..60_000), 0..8)) {
            let mut output = Output::default();
            for (byte, len) in chunks {
                output.push(&vec![byte; len]);
            }
            prop_assert!(output.text().len() <= OUTPUT_TAIL_LIMIT);
        }

        #[test]
        fn little_output_is_kept_whole(chunks in prop::collection::vec("[a-zä]{0,3000}", 0..5)) {
            let mut output = Output::default();
            for chunk in &chunks {
                output.push(chunk.as_bytes());
            }
            prop_assert_eq!(output.text(), chunks.concat());
        }
    }

    #[test]
    fn head_and_tail_of_much_output_survive() {
        let mut output = Output::default();
        output.push(b"first line\n");
        for _ in 0..10_000 {
            output.push(b"some noise in between\n");
        }
        output.push(b"last line\n");
        let text = output.text();
        assert!(text.starts_with("first line\n"));
        assert!(text.ends_with("last line\n"));
        assert!(text.contains("bytes left out"));
    }
}
