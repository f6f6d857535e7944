//! What scripts printed, with steps apart and the two streams marked.

use kernex_proto::v1;
use serde::Serialize;

use super::{
    Field, Time, View, ago, printable, printable_lines, state_word,
    target::{TargetView, state_of},
    wire::Wire,
};

/// What the scripts of one target printed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ScriptOutputView {
    #[serde(flatten)]
    target: Wire<v1::Target>,
    /// `output_tail`, cut apart at `output_marks`.
    output: Vec<PieceView>,
}

/// A part of the output, of one step and stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct PieceView {
    /// "pre_hook", "script", "post_hook", "health", "rollback"; empty when not known.
    step: String,
    /// "stdout" or "stderr"; empty when they were not told apart.
    stream: String,
    text: String,
}

impl From<v1::Target> for ScriptOutputView {
    fn from(target: v1::Target) -> Self {
        Self {
            output: pieces(&target.output_tail, &target.output_marks),
            target: Wire(target),
        }
    }
}

/// A text cut apart at its marks. Without them it is one piece.
fn pieces(text: &str, marks: &[v1::OutputMark]) -> Vec<PieceView> {
    let unmarked = [v1::OutputMark::default()];
    let begins_marked = marks.first().is_some_and(|mark| mark.start == 0);
    let marks = unmarked
        .iter()
        .filter(|_| !begins_marked)
        .chain(marks)
        .collect::<Vec<_>>();
    let ends = marks.iter().skip(1).map(|mark| mark.start as usize);
    let ends = ends.chain([text.len()]);
    marks
        .iter()
        .zip(ends)
        .filter_map(|(mark, end)| {
            let text = text.get(mark.start as usize..end.min(text.len()))?;
            (!text.is_empty()).then(|| PieceView {
                step: state_word!(v1::Step, mark.step, "STEP_"),
                stream: state_word!(v1::OutputStream, mark.stream, "OUTPUT_STREAM_"),
                text: text.to_owned(),
            })
        })
        .collect()
}

impl ScriptOutputView {
    /// Only the text.
    pub(crate) fn raw(&self) -> String {
        let pieces = self.output.iter().map(|piece| piece.text.as_str());
        pieces.chain([self.late_output()]).collect()
    }

    /// A heading, then what was printed.
    pub(crate) fn text(&self, now: Time) -> String {
        let target = &self.target;
        let (device, bundle) = (printable(&target.device_name), printable(&target.bundle));
        let sentence = printable(&TargetView::from(target.0.clone()).sentence());
        let when = ago(Time::from_wire(target.updated_at), now);
        let mut text = format!("{device}: {bundle}, {sentence}, {when}\n");
        if !target.message.is_empty() {
            text.push_str(&format!("  {}\n", printable(&target.message)));
        }
        let lines = self.lines(usize::MAX);
        if lines.is_empty() {
            text.push_str(&format!("  ({})\n", self.silence()));
        }
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// The last lines of what was printed. Each step stands under a heading of its own, with a mark
    /// before each line: `|` for what was said, `!` for standard error.
    pub(crate) fn lines(&self, most: usize) -> Vec<String> {
        let mut said = Vec::new();
        for piece in &self.output {
            let mark = if piece.stream == "stderr" { '!' } else { '|' };
            for line in printable_lines(&piece.text).lines() {
                said.push((title(&piece.step), format!("{mark} {line}")));
            }
        }
        let late = self.late_output();
        for line in printable_lines(late).lines() {
            said.push(("late outcome", format!("| {line}")));
        }
        let mut lines = Vec::new();
        let mut under = None;
        let left_out = said.len().saturating_sub(most);
        for (title, line) in said.into_iter().skip(left_out) {
            if under != Some(title) {
                lines.push(format!("--- {title}"));
                under = Some(title);
            }
            lines.push(line);
        }
        lines
    }

    /// What came with an outcome after the attempt was closed.
    fn late_output(&self) -> &str {
        let late = self.target.late.as_ref();
        late.map_or("", |late| late.output_tail.as_str())
    }

    /// Why there is no output.
    fn silence(&self) -> &'static str {
        use v1::AttemptState::{Accepted, Deferred, Held, Pending, Running, Sent};
        match self.target.state() {
            Held | Pending | Sent => "nothing has begun yet",
            Accepted | Running | Deferred => {
                "it is under way: what its scripts print comes with its outcome"
            }
            _ => "nothing was printed",
        }
    }
}

/// The script of a step, by its name in the manifest.
fn title(step: &str) -> &str {
    match step {
        "pre_hook" => "hooks.pre",
        "script" => "deploy.script",
        "post_hook" => "hooks.post",
        "health" => "health",
        "rollback" => "going back",
        "" => "output",
        other => other,
    }
}

impl View for ScriptOutputView {
    const EMPTY: &'static str = "Nothing was printed.";

    fn header(_wide: bool) -> Vec<&'static str> {
        vec!["DEVICE", "BUNDLE", "STATE", "CHANGED"]
    }

    fn row(&self, _wide: bool, now: Time) -> Vec<Field> {
        vec![
            Field::plain(&self.target.device_name),
            Field::plain(&self.target.bundle),
            Field::state(&state_of(self.target.state)),
            Field::plain(ago(Time::from_wire(self.target.updated_at), now)),
        ]
    }

    fn name(&self) -> String {
        self.target.device_name.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> v1::Target {
        let mark = |start, step: v1::Step, stream: v1::OutputStream| v1::OutputMark {
            start,
            step: step.into(),
            stream: stream.into(),
        };
        let (stdout, stderr) = (v1::OutputStream::Stdout, v1::OutputStream::Stderr);
        v1::Target {
            device_name: "edge-1".into(),
            bundle: "app:1.0".into(),
            state: v1::AttemptState::Failed.into(),
            reason: v1::FailureReason::ScriptFailed.into(),
            exit_code: Some(7),
            message: "deploy.script exited with 7".into(),
            output_tail: "ready\none\nbad \x1b[31m\nback\n".into(),
            output_marks: vec![
                mark(0, v1::Step::PreHook, stdout),
                mark(6, v1::Step::Script, stdout),
                mark(10, v1::Step::Script, stderr),
                mark(20, v1::Step::Rollback, stdout),
            ],
            updated_at: Some(prost_types::Timestamp {
                seconds: 100,
                nanos: 0,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn steps_are_apart_and_the_streams_are_marked() {
        let view = ScriptOutputView::from(target());
        insta::assert_snapshot!(view.text(Time::at(160)), @r"
        edge-1: app:1.0, failed: script_failed (exit code 7), 1m ago
          deploy.script exited with 7
        --- hooks.pre
        | ready
        --- deploy.script
        | one
        ! bad �[31m
        --- going back
        | back
        ");
        assert_eq!(view.raw(), target().output_tail);
    }

    #[test]
    fn what_came_late_is_output_too() {
        let late = v1::Target {
            state: v1::AttemptState::Expired.into(),
            reason: v1::FailureReason::Unspecified.into(),
            exit_code: None,
            message: String::new(),
            output_tail: String::new(),
            output_marks: Vec::new(),
            late_outcome: true,
            late: Some(v1::LateOutcome {
                state: v1::AttemptState::Succeeded.into(),
                output_tail: "all well\n".into(),
                ..Default::default()
            }),
            ..target()
        };
        let view = ScriptOutputView::from(late);
        insta::assert_snapshot!(view.text(Time::at(160)), @r"
        edge-1: app:1.0, expired, then succeeded late, 1m ago
        --- late outcome
        | all well
        ");
        assert_eq!(view.raw(), "all well\n");
    }

    #[test]
    fn the_last_lines_keep_the_heading_of_their_step() {
        let view = ScriptOutputView::from(target());
        assert_eq!(
            view.lines(2),
            [
                "--- deploy.script",
                "! bad \u{fffd}[31m",
                "--- going back",
                "| back"
            ]
        );
    }

    #[test]
    fn output_of_an_older_agent_is_one_piece() {
        let unmarked = v1::Target {
            output_marks: Vec::new(),
            ..target()
        };
        let view = ScriptOutputView::from(unmarked);
        assert_eq!(view.output.len(), 1);
        assert_eq!(
            (view.output[0].step.as_str(), view.output[0].stream.as_str()),
            ("", "")
        );
        let silent = v1::Target {
            output_tail: String::new(),
            output_marks: Vec::new(),
            ..target()
        };
        let text = ScriptOutputView::from(silent.clone()).text(Time::at(160));
        assert!(text.contains("(nothing was printed)"), "{text}");
        for (state, why) in [
            (v1::AttemptState::Running, "it is under way"),
            (v1::AttemptState::Pending, "nothing has begun yet"),
        ] {
            let early = v1::Target {
                state: state.into(),
                ..silent.clone()
            };
            let text = ScriptOutputView::from(early).text(Time::at(160));
            assert!(text.contains(why) && !text.contains("printed)"), "{text}");
        }
        // Marks that make no sense lose no text.
        let wrong = v1::Target {
            output_marks: vec![v1::OutputMark {
                start: 99,
                ..Default::default()
            }],
            ..target()
        };
        assert_eq!(ScriptOutputView::from(wrong).raw(), target().output_tail);
    }
}
