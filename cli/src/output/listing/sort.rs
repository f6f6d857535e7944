//! The order of a list, by any field of its data.

use std::cmp::Ordering;

use serde_json::Value;

use crate::{error::Failure, output::View};

/// Sorted by a field of the JSON view; `-` in front of it turns the order round. What lacks the
/// field comes last.
pub(super) fn sorted<T: View>(items: Vec<T>, field: &str) -> Result<Vec<T>, Failure> {
    let (field, backwards) = match field.strip_prefix('-') {
        Some(field) => (field, true),
        None => (field, false),
    };
    let mut keyed = Vec::with_capacity(items.len());
    for item in items {
        let json = serde_json::to_value(&item).unwrap_or_default();
        let Some(key) = at_path(&json, field) else {
            let known: Vec<&str> = json
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, _)| k.as_str())
                .collect();
            return Err(Failure::usage(
                format!("there is no field `{field}` to sort by"),
                format!("Choose among {}.", known.join(", ")),
            ));
        };
        keyed.push((Key::from(key), item));
    }
    keyed.sort_by(|(a, _), (b, _)| match (a, b) {
        (Key::Absent, Key::Absent) => Ordering::Equal,
        (Key::Absent, _) => Ordering::Greater,
        (_, Key::Absent) => Ordering::Less,
        (a, b) if backwards => b.order(a),
        (a, b) => a.order(b),
    });
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

/// In the order of names, as people count.
pub(super) fn by_name<T: View>(items: &mut [T]) {
    items.sort_by_cached_key(|item| Name(item.name()));
}

/// A name, ordered as people count.
#[derive(PartialEq, Eq)]
struct Name(String);

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        natural(&self.0, &other.0)
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A field of an object, or one of an object within; null where an object within is missing.
fn at_path<'a>(json: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(json, |at, name| match at {
        Value::Null => Some(at),
        at => at.get(name),
    })
}

/// What items are sorted by.
#[derive(Debug, PartialEq)]
enum Key {
    Absent,
    Number(f64),
    Time(jiff::Timestamp),
    Text(String),
}

impl From<&Value> for Key {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Absent,
            Value::Number(number) => Self::Number(number.as_f64().unwrap_or(f64::MAX)),
            Value::String(text) => match text.parse() {
                Ok(time) => Self::Time(time),
                Err(_) => Self::Text(text.clone()),
            },
            other => Self::Text(other.to_string()),
        }
    }
}

impl Key {
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Time(a), Self::Time(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => natural(a, b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Number(_) => 0,
            Self::Time(_) => 1,
            Self::Text(_) => 2,
            Self::Absent => 3,
        }
    }
}

/// As people count: `edge-2` before `edge-10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    while let (Some(x), Some(y)) = (left.chars().next(), right.chars().next()) {
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let ((m, after_m), (n, after_n)) = (number(left), number(right));
            let order = m.len().cmp(&n.len()).then_with(|| m.cmp(n));
            if order.is_ne() {
                return order;
            }
            (left, right) = (after_m, after_n);
        } else if x == y {
            (left, right) = (&left[x.len_utf8()..], &right[y.len_utf8()..]);
        } else {
            return x.cmp(&y);
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// The digits a text begins with, without leading zeros, and what follows.
fn number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (text[..end].trim_start_matches('0'), &text[end..])
}
