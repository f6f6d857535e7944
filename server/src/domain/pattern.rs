//! Patterns for names, as in a shell: `*` stands for any text, `?` for one character.

/// A pattern for a whole name. It tells capitals from small letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Every text is a pattern.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What all matching names begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.0.split(['*', '?']).next().unwrap_or_default()
    }

    /// The only name that matches, when there is no wildcard.
    #[must_use]
    pub fn only(&self) -> Option<&str> {
        (self.prefix().len() == self.0.len()).then_some(self.0.as_str())
    }

    /// Whether a name matches. Takes at most the product of both lengths.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut seen) = (0, 0);
        // Where to go on when the last `*` stands for one character more.
        let mut again: Option<(usize, usize)> = None;
        while seen < name.len() {
            match pattern.get(at) {
                Some('*') => {
                    again = Some((at + 1, seen));
                    at += 1;
                }
                Some(c) if *c == '?' || *c == name[seen] => {
                    at += 1;
                    seen += 1;
                }
                _ => {
                    let Some((after, taken)) = again else {
                        return false;
                    };
                    again = Some((after, taken + 1));
                    (at, seen) = (after, taken + 1);
                }
            }
        }
        pattern[at..].iter().all(|c| *c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names() {
        let table: [(&str, &[&str], &[&str]); 8] = [
            ("edge-1", &["edge-1"], &["edge-10", "Edge-1", "edge", ""]),
            ("edge-*", &["edge-", "edge-1"], &["edge", "x-edge-1"]),
            ("*-1", &["edge-1", "-1", "-1-1"], &["edge-10"]),
            ("edge-??", &["edge-10"], &["edge-1", "edge-100"]),
            ("*", &["", "anything"], &[]),
            ("a*b*c", &["abc", "axbxbxc"], &["ab", "acb"]),
            ("**?", &["a", "ab"], &[""]),
            ("100%_", &["100%_"], &["1000_", "100%x"]),
        ];
        for (text, good, bad) in table {
            let pattern = Pattern::new(text);
            for name in good {
                assert!(pattern.matches(name), "{text} {name}");
                assert!(name.starts_with(pattern.prefix()), "{text} {name}");
            }
            for name in bad {
                assert!(!pattern.matches(name), "{text} {name}");
            }
        }
        assert_eq!(Pattern::new("edge-1").only(), Some("edge-1"));
        assert_eq!(Pattern::new("edge-?").only(), None);
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let pattern = Pattern::new(&"a*".repeat(120));
        assert!(!pattern.matches(&("a".repeat(119) + "b")));
    }
}
