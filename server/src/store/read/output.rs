//! Marks in the output of scripts, as a column has them: a JSON array of
//! `[place, step, stream]`, with an empty step where it is not known.

use crate::domain::attempt::{OutputMark, OutputStream, Step};

/// The text of a column; empty for none.
pub(crate) fn marks_text(marks: &[OutputMark]) -> String {
    if marks.is_empty() {
        return String::new();
    }
    let rows: Vec<(u32, &str, &str)> = marks
        .iter()
        .map(|mark| {
            let step = mark.step.map_or("", Step::as_str);
            (mark.start, step, mark.stream.as_str())
        })
        .collect();
    serde_json::to_string(&rows).unwrap_or_default()
}

/// The marks of a column. A word of a newer version counts as unknown.
pub(crate) fn marks_from(text: &str) -> Vec<OutputMark> {
    let rows: Vec<(u32, String, String)> = serde_json::from_str(text).unwrap_or_default();
    let mark = |(start, step, stream): (u32, String, String)| OutputMark {
        start,
        step: Step::parse(&step),
        stream: OutputStream::parse(&stream).unwrap_or(OutputStream::Mixed),
    };
    rows.into_iter().map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_their_column() {
        let marks = [
            OutputMark {
                start: 0,
                step: None,
                stream: OutputStream::Mixed,
            },
            OutputMark {
                start: 7,
                step: Some(Step::PreHook),
                stream: OutputStream::Stderr,
            },
        ];
        let text = marks_text(&marks);
        assert_eq!(text, r#"[[0,"","mixed"],[7,"pre_hook","stderr"]]"#);
        assert_eq!(marks_from(&text), marks);
        assert_eq!(marks_text(&[]), "");
        assert!(marks_from("").is_empty());
    }
}
