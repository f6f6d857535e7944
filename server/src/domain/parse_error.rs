//! A parse error in a text that an operator wrote, with its place in it.

/// Characters of the text that are shown around the place.
const SHOWN: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {}: {why}", .at + 1)]
pub struct ParseError {
    pub text: String,
    /// In characters from the start of the text.
    pub at: usize,
    pub why: String,
}

impl ParseError {
    /// An error at this byte of a text.
    pub(crate) fn at_byte(text: &str, byte: usize, why: impl Into<String>) -> Self {
        Self {
            text: text.to_owned(),
            at: text[..text.floor_char_boundary(byte)].chars().count(),
            why: why.into(),
        }
    }

    /// One line of the text around the place, and the position in that line for a mark below it.
    #[must_use]
    pub fn excerpt(&self) -> (String, usize) {
        let from = if self.text.chars().count() <= SHOWN {
            0
        } else {
            self.at.saturating_sub(SHOWN / 2)
        };
        let shown = self.text.chars().skip(from).take(SHOWN);
        // A control character would move the mark away from its place.
        let shown = shown.map(|c| if c.is_control() { ' ' } else { c });
        (shown.collect(), self.at - from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stays_below_its_character() {
        let long = format!("{}!{}", "x".repeat(500), "y".repeat(500));
        for (text, byte) in [("a=b,\tc", 4), ("äö=x", 4), (long.as_str(), 500), ("", 0)] {
            let error = ParseError::at_byte(text, byte, "wrong");
            let (line, at) = error.excerpt();
            assert!(line.chars().count() <= SHOWN && !line.contains('\t'));
            let wanted = text[byte..].chars().next();
            let wanted = wanted.map(|c| if c.is_control() { ' ' } else { c });
            assert_eq!(line.chars().nth(at), wanted, "{text}");
        }
        assert_eq!(
            ParseError::at_byte("a b", 2, "no").to_string(),
            "at character 3: no"
        );
    }
}
