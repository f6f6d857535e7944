//! Which devices an operator means: label selectors, in the syntax of Kubernetes.
//!
//! `site=berlin,env in (prod, stage),tier!=db,gpu,!canary`. Commas join requirements, and all of
//! them must hold. An empty text or `*` means every device. A device also has the [built-in
//! labels](BUILT_IN), as far as it has reported them. As in Kubernetes, `!=` and `notin` also hold
//! where the label is missing.

use std::{collections::BTreeMap, fmt, str::FromStr};

use super::parse_error::ParseError;

/// Prefix of the built-in labels. Operators cannot set these, because devices report them.
pub const RESERVED_PREFIX: &str = "kernex.io/";

/// Names of the built-in labels, without [`RESERVED_PREFIX`].
pub const BUILT_IN: [&str; 4] = ["name", "os", "arch", "agent-version"];

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

impl Selector {
    #[must_use]
    pub const fn all() -> Self {
        Self(Vec::new())
    }

    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if matches!(text.trim(), "" | "*") {
            return Ok(Self::all());
        }
        let mut parser = Parser { text, at: 0 };
        let mut requirements = Vec::new();
        loop {
            requirements.push(parser.requirement()?);
            match parser.peek() {
                None => return Ok(Self(requirements)),
                Some(',') => parser.at += 1,
                Some(_) => return parser.fail("a comma was expected between requirements"),
            }
        }
    }

    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values of requirements that a matching device has one of. The store narrows its
    /// query by them.
    pub fn one_of(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().filter_map(|requirement| match requirement {
            Requirement::In(key, values) => Some((key.as_str(), values.as_slice())),
            Requirement::NotIn(..) | Requirement::Exists(_) | Requirement::Missing(_) => None,
        })
    }

    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Missing(key) => !labels.contains_key(key),
        })
    }
}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// The canonical text. It parses to the same selector.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("*");
        }
        for (index, requirement) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match requirement {
                Requirement::In(key, values) => match values.as_slice() {
                    [one] => write!(f, "{key}={one}")?,
                    many => write!(f, "{key} in ({})", many.join(","))?,
                },
                Requirement::NotIn(key, values) => match values.as_slice() {
                    [one] => write!(f, "{key}!={one}")?,
                    many => write!(f, "{key} notin ({})", many.join(","))?,
                },
                Requirement::Exists(key) => f.write_str(key)?,
                Requirement::Missing(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

/// Checks the key of a label: an optional DNS prefix with a slash, then up to 63 of `a-z A-Z 0-9 .
/// _ -` that begin and end with a letter or digit.
pub fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key
        .rsplit_once('/')
        .map_or((None, key), |(p, n)| (Some(p), n));
    if let Some(prefix) = prefix {
        let dns = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
        if prefix.is_empty() || prefix.len() > 253 || !prefix.bytes().all(dns) {
            return Err(format!(
                "`{prefix}` is not a DNS name before the slash of a label key"
            ));
        }
    }
    if name.is_empty() {
        return Err("a label key was expected".into());
    }
    check_word("label key", name)
}

/// Checks the value of a label: empty, or like the name part of a key.
pub fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Ok(());
    }
    check_word("label value", value)
}

fn check_word(kind: &str, word: &str) -> Result<(), String> {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if word.len() <= 63
        && edge(word.bytes().next())
        && edge(word.bytes().next_back())
        && word.bytes().all(good)
    {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a {kind}: up to 63 letters, digits, `.`, `_` or `-`, with a letter or digit at both ends",
        word.chars().take(80).collect::<String>()
    ))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn fail<T>(&self, why: impl Into<String>) -> Result<T, ParseError> {
        Err(self.error(self.at, why))
    }

    fn error(&self, byte: usize, why: impl Into<String>) -> ParseError {
        ParseError::at_byte(self.text, byte, why)
    }

    /// The next character after blanks. It stays in place.
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, token: &str) -> bool {
        self.peek();
        let found = self.text[self.at..].starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// The text up to the next character that has a meaning.
    fn word(&mut self) -> (usize, &'a str) {
        self.peek();
        let start = self.at;
        let rest = &self.text[start..];
        let end = rest
            .find(|c: char| c.is_whitespace() || "=!,()<>".contains(c))
            .unwrap_or(rest.len());
        self.at += end;
        (start, &rest[..end])
    }

    fn key(&mut self) -> Result<String, ParseError> {
        let (at, word) = self.word();
        check_key(word).map_err(|why| self.error(at, why))?;
        if let Some(name) = word.strip_prefix(RESERVED_PREFIX)
            && !BUILT_IN.contains(&name)
        {
            let known = BUILT_IN.map(|name| format!("{RESERVED_PREFIX}{name}"));
            let why = format!(
                "`{word}` is no built-in label; there are {}",
                known.join(", ")
            );
            return Err(self.error(at, why));
        }
        Ok(word.to_owned())
    }

    fn value(&mut self, key: &str) -> Result<String, ParseError> {
        let (at, word) = self.word();
        // What devices report, such as versions, is freer than labels.
        if !key.starts_with(RESERVED_PREFIX) || word.len() > 256 {
            check_value(word).map_err(|why| self.error(at, why))?;
        }
        Ok(word.to_owned())
    }

    fn requirement(&mut self) -> Result<Requirement, ParseError> {
        if self.take("!") {
            return Ok(Requirement::Missing(self.key()?));
        }
        let key = self.key()?;
        match self.peek() {
            None | Some(',') => return Ok(Requirement::Exists(key)),
            Some('!') => {
                if !self.take("!=") {
                    return self.fail("`!=` was expected");
                }
                let value = self.value(&key)?;
                return Ok(Requirement::NotIn(key, vec![value]));
            }
            Some('=') => {
                let _ = self.take("==") || self.take("=");
                let value = self.value(&key)?;
                return Ok(Requirement::In(key, vec![value]));
            }
            Some(_) => {}
        }
        let (at, operator) = self.word();
        match operator {
            "in" => {
                let values = self.set(&key)?;
                Ok(Requirement::In(key, values))
            }
            "notin" => {
                let values = self.set(&key)?;
                Ok(Requirement::NotIn(key, values))
            }
            _ => {
                self.at = at;
                self.fail("one of `=`, `==`, `!=`, `in`, `notin` or a comma was expected")
            }
        }
    }

    fn set(&mut self, key: &str) -> Result<Vec<String>, ParseError> {
        if !self.take("(") {
            return self.fail("`(` was expected before the values");
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value(key)?);
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return self.fail("`,` or `)` was expected after a value");
            }
        }
    }
}

#[cfg(test)]
mod tests;
