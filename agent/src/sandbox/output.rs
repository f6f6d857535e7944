//! The output of an attempt's scripts: its head and its tail, however much there is, and of which
//! script and stream each part is.

use std::collections::VecDeque;

use kernex_proto::{
    OUTPUT_TAIL_LIMIT,
    v1::{Outcome, OutputMark, OutputStream, Step},
};

/// Bytes kept of the beginning.
const HEAD: usize = 4 * 1024;
/// Room for the line that says how much is missing.
const GAP_LINE: usize = 64;
/// Bytes kept of the end.
const TAIL: usize = OUTPUT_TAIL_LIMIT - HEAD - GAP_LINE;

/// Most changes of step or stream that are kept.
const MOST_MARKS: usize = 1024;

/// Whose output it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source {
    step: Step,
    stream: OutputStream,
}

/// Keeps the head and the tail of any amount of output, and the step and stream of each part.
#[derive(Debug)]
pub(crate) struct Output {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    skipped: u64,
    /// Where each source begins, counted in bytes of all output that was ever pushed.
    marks: Vec<(u64, Source)>,
    /// What is pushed now belongs to this step.
    step: Step,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            skipped: 0,
            marks: Vec::new(),
            step: Step::Unspecified,
        }
    }
}

impl Output {
    /// Output that the journal kept over a restart of the agent, with its marks.
    pub(crate) fn of_earlier(text: &str, marks: &[OutputMark]) -> Self {
        let mut output = Self::default();
        let starts = marks.iter().map(|mark| mark.start as usize);
        let ends = starts.clone().skip(1).chain([text.len()]);
        let before = starts.clone().next().unwrap_or(text.len());
        output.push(OutputStream::Unspecified, part(text, 0, before));
        for ((mark, start), end) in marks.iter().zip(starts).zip(ends) {
            output.step = mark.step();
            output.push(mark.stream(), part(text, start, end));
        }
        output
    }

    /// What is pushed from now on belongs to this step.
    pub(crate) fn begin(&mut self, step: Step) {
        self.step = step;
    }

    pub(crate) fn push(&mut self, stream: OutputStream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.mark(stream);
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
        self.head.extend_from_slice(head);
        let (lost, rest) = rest.split_at(rest.len().saturating_sub(TAIL));
        self.skipped += lost.len() as u64;
        let surplus = (self.tail.len() + rest.len()).saturating_sub(TAIL);
        self.skipped += surplus as u64;
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// Notes whose output comes next.
    fn mark(&mut self, stream: OutputStream) {
        let mut source = Source {
            step: self.step,
            stream,
        };
        let last = self.marks.last().map(|(_, last)| *last);
        if last == Some(source) {
            return;
        }
        let resumed = self.head.len() as u64 + self.skipped;
        if self.marks.len() >= MOST_MARKS {
            // These are marks of the part that was left out. The last of them is the source of the
            // tail's first byte.
            let of_tail = self.marks.partition_point(|(start, _)| *start <= resumed);
            let head = self.head.len() as u64;
            let of_head = self.marks.partition_point(|(start, _)| *start < head);
            if of_head + 1 < of_tail {
                self.marks.drain(of_head..of_tail - 1);
            }
        }
        if self.marks.len() >= MOST_MARKS {
            // The streams change too often to be told apart.
            source.stream = OutputStream::Unspecified;
            if last == Some(source) || self.marks.len() >= 2 * MOST_MARKS {
                return;
            }
        }
        self.marks.push((resumed + self.tail.len() as u64, source));
    }

    /// The output as text of at most [`OUTPUT_TAIL_LIMIT`] bytes, valid UTF-8 whatever came.
    pub(crate) fn text(&self) -> String {
        self.marked().0
    }

    /// Puts the output into an outcome.
    pub(crate) fn put_into(&self, outcome: &mut Outcome) {
        (outcome.output_tail, outcome.output_marks) = self.marked();
    }

    /// The text, and where in it the output of another step or stream begins.
    pub(crate) fn marked(&self) -> (String, Vec<OutputMark>) {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let mut text = Marked::default();
        if self.skipped == 0 {
            // Kept together, a character across the seam stays whole.
            self.add(&mut text, 0, &[self.head.as_slice(), &tail].concat());
        } else {
            self.add(&mut text, 0, &self.head);
            let gap = format!("\n[... {} bytes left out ...]\n", self.skipped);
            text.text.push_str(&gap);
            self.add(&mut text, self.head.len() as u64 + self.skipped, &tail);
        }
        text.cut();
        (text.text, text.marks)
    }

    /// Adds what was pushed from byte `from` on.
    fn add(&self, to: &mut Marked, from: u64, bytes: &[u8]) {
        let end = from + bytes.len() as u64;
        let mut at = from;
        while at < end {
            let next = self.marks.partition_point(|(start, _)| *start <= at);
            let source = next
                .checked_sub(1)
                .and_then(|before| self.marks.get(before));
            let until = self
                .marks
                .get(next)
                .map_or(end, |(start, _)| end.min(*start));
            let piece = &bytes[(at - from) as usize..(until - from) as usize];
            to.push(source.map(|(_, source)| *source), piece);
            at = until;
        }
    }
}

/// A part of a text; nothing where it has no such part.
fn part(text: &str, start: usize, end: usize) -> &[u8] {
    text.get(start..end).unwrap_or_default().as_bytes()
}

/// Text that is put together, with its marks.
#[derive(Default)]
struct Marked {
    text: String,
    marks: Vec<OutputMark>,
    last: Option<Source>,
}

impl Marked {
    fn push(&mut self, source: Option<Source>, bytes: &[u8]) {
        if let Some(source) = source.filter(|_| source != self.last) {
            self.marks.push(OutputMark {
                start: self.text.len() as u32,
                step: source.step.into(),
                stream: source.stream.into(),
            });
            self.last = Some(source);
        }
        // A database may refuse NUL, and a text that is changed on its way has other marks.
        let text = String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}");
        self.text.push_str(&text);
    }

    /// A replacement character is longer than the byte it stands for.
    fn cut(&mut self) {
        if self.text.len() <= OUTPUT_TAIL_LIMIT {
            return;
        }
        let surplus = self.text.len() - OUTPUT_TAIL_LIMIT;
        let start = self.text.ceil_char_boundary(surplus);
        self.text.drain(..start);
        let before = self
            .marks
            .partition_point(|mark| mark.start as usize <= start);
        self.marks.drain(..before.saturating_sub(1));
        for mark in &mut self.marks {
            mark.start = mark.start.saturating_sub(start as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STDOUT: OutputStream = OutputStream::Stdout;
    const STDERR: OutputStream = OutputStream::Stderr;

    /// The pieces of a text by its marks.
    fn pieces(output: &Output) -> Vec<(Step, OutputStream, String)> {
        let (text, marks) = output.marked();
        let ends = marks.iter().skip(1).map(|mark| mark.start as usize);
        let ends = ends.chain([text.len()]);
        let pieces = marks.iter().zip(ends).map(|(mark, end)| {
            let piece = text[mark.start as usize..end].to_owned();
            (mark.step(), mark.stream(), piece)
        });
        pieces.collect()
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit(chunks in prop::collection::vec((any::<u8>(), 0usize..60_000), 0..8)) {
            let mut output = Output::default();
            for (byte, len) in chunks {
                output.push(STDOUT, &vec![byte; len]);
            }
            prop_assert!(output.text().len() <= OUTPUT_TAIL_LIMIT);
        }

        #[test]
        fn little_output_is_kept_whole(chunks in prop::collection::vec("[a-zä]{0,3000}", 0..5)) {
            let mut output = Output::default();
            for chunk in &chunks {
                output.push(STDOUT, chunk.as_bytes());
            }
            prop_assert_eq!(output.text(), chunks.concat());
        }
    }

    #[test]
    fn head_and_tail_of_much_output_survive() {
        let mut output = Output::default();
        output.push(STDOUT, b"first line\n");
        for _ in 0..10_000 {
            output.push(STDOUT, b"some noise in between\n");
        }
        output.push(STDOUT, b"last line\n");
        let text = output.text();
        assert!(text.starts_with("first line\n"));
        assert!(text.ends_with("last line\n"));
        assert!(text.contains("bytes left out"));
    }

    #[test]
    fn each_part_says_of_which_step_and_stream_it_is() {
        let mut output = Output::default();
        output.begin(Step::PreHook);
        output.push(STDOUT, b"ready\n");
        output.begin(Step::Script);
        output.push(STDOUT, b"one\n");
        output.push(STDOUT, b"two\n");
        output.push(STDERR, b"bad \xff\0\n");
        let expected = [
            (Step::PreHook, STDOUT, "ready\n".to_owned()),
            (Step::Script, STDOUT, "one\ntwo\n".to_owned()),
            (Step::Script, STDERR, "bad \u{fffd}\u{fffd}\n".to_owned()),
        ];
        assert_eq!(pieces(&output), expected);
        // A restart of the agent in between loses none of that.
        let (text, marks) = output.marked();
        let mut resumed = Output::of_earlier(&text, &marks);
        assert_eq!(pieces(&resumed), expected);
        resumed.begin(Step::Rollback);
        resumed.push(STDOUT, b"back\n");
        assert_eq!(pieces(&resumed).len(), 4);
        // An earlier agent kept no marks.
        let unmarked = Output::of_earlier("text", &[]);
        assert_eq!(unmarked.text(), "text");
    }

    #[test]
    fn the_end_of_much_output_knows_whose_it_is() {
        let mut output = Output::default();
        output.begin(Step::Script);
        for round in 0..20_000 {
            output.push(STDOUT, format!("line {round}\n").as_bytes());
            if round % 100 == 0 {
                output.push(STDERR, b"warning\n");
            }
        }
        output.push(STDERR, b"the end\n");
        let pieces = pieces(&output);
        let (step, stream, text) = pieces.last().expect("a piece");
        assert_eq!(
            (*step, *stream, text.as_str()),
            (Step::Script, STDERR, "the end\n")
        );
        let warned = pieces.iter().filter(|(_, stream, _)| *stream == STDERR);
        assert!(
            warned
                .into_iter()
                .all(|(_, _, text)| !text.contains("line"))
        );
    }

    #[test]
    fn streams_that_change_too_often_are_not_told_apart_and_cost_no_room() {
        let mut output = Output::default();
        output.begin(Step::Script);
        for _ in 0..20_000 {
            output.push(STDOUT, b"o");
            output.push(STDERR, b"e");
        }
        let (text, marks) = output.marked();
        assert!(marks.len() <= 2 * MOST_MARKS, "{}", marks.len());
        assert!(
            marks
                .iter()
                .all(|mark| text.is_char_boundary(mark.start as usize))
        );
        let last = marks.last().expect("a mark");
        assert_eq!(last.stream(), OutputStream::Unspecified);
    }
}
