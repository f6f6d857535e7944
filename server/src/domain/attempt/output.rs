//! Which step and stream each part of a script's output is from.

use super::Step;
use crate::domain::named_enum;

named_enum! {
    /// Which output of a script.
    OutputStream {
        /// The agent did not tell the two apart.
        Mixed = "mixed",
        /// Its standard output.
        Stdout = "stdout",
        /// Its standard error.
        Stderr = "stderr",
    }
}

/// Where in a text the output of a step and stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputMark {
    /// In bytes from the start of the text.
    pub start: u32,
    /// `None` when it is not known.
    pub step: Option<Step>,
    pub stream: OutputStream,
}

/// Marks of one text that are kept. Agents send fewer.
const MOST_MARKS: usize = 4096;

/// The marks, or none when they make no sense in this text.
#[must_use]
pub fn fitting(text: &str, marks: Vec<OutputMark>) -> Vec<OutputMark> {
    let in_order = marks.is_sorted_by(|one, next| one.start <= next.start);
    let within = |mark: &OutputMark| text.is_char_boundary(mark.start as usize);
    if marks.len() <= MOST_MARKS && in_order && marks.iter().all(within) {
        marks
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_that_make_no_sense_are_none() {
        let mark = |start| OutputMark {
            start,
            step: Some(Step::Script),
            stream: OutputStream::Stdout,
        };
        let kept = |starts: &[u32]| {
            let marks = starts.iter().copied().map(mark).collect();
            fitting("aä\n", marks).len()
        };
        assert_eq!(kept(&[0, 1, 3, 4]), 4);
        for bad in [&[2][..], &[5], &[3, 1], &[u32::MAX]] {
            assert_eq!(kept(bad), 0, "{bad:?}");
        }
        assert_eq!(kept(&[0; MOST_MARKS + 1]), 0);
    }
}
