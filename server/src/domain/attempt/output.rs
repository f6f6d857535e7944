//! Of which step and stream the parts of a script's output are.

use super::Step;
use crate::domain::named_enum;

named_enum! {
    /// Which output of a script.
    OutputStream {
        /// The two were not told apart.
        Mixed = "mixed",
        /// Its standard output.
        Stdout = "stdout",
        /// Its standard error.
        Stderr = "stderr",
    }
}

/// Whose output begins at a place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputMark {
    /// The place, in bytes.
    pub start: u32,
    /// The step it is from; none when that is not known.
    pub step: Option<Step>,
    pub stream: OutputStream,
}

/// Most marks of one text; an agent sends fewer.
const MOST: usize = 4096;

/// The marks of a text, or none when they make no sense in it.
#[must_use]
pub fn fitting(text: &str, marks: Vec<OutputMark>) -> Vec<OutputMark> {
    let in_order = marks.is_sorted_by(|one, next| one.start <= next.start);
    let within = |mark: &OutputMark| text.is_char_boundary(mark.start as usize);
    if marks.len() <= MOST && in_order && marks.iter().all(within) {
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
        assert_eq!(kept(&[0; MOST + 1]), 0);
    }
}
