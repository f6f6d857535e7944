//! Taking one field after the other out of a JSON object, so that every error can name the field's
//! path.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Links, MAX_TIMEOUT_SECONDS, ManifestError, Restart, unknown};
use crate::ids::check_name;

/// Longest script text, in bytes: the kernel refuses a single argument of 128 KiB.
const MAX_SCRIPT_BYTES: usize = 64 * 1024;

/// What is left of an object, and where it stands in the file.
pub(super) struct Fields {
    path: &'static str,
    left: Map<String, Value>,
}

impl Fields {
    pub(super) fn new(path: &'static str, value: Value) -> Result<Self, ManifestError> {
        match value {
            Value::Object(left) => Ok(Self { path, left }),
            other if path.is_empty() => Err(ManifestError::file(format!(
                "the file must hold an object, not {}",
                kind(&other)
            ))),
            other => Err(ManifestError::field(path, wanted("an object", &other))),
        }
    }

    /// The field's value through `read`; `null` counts as absent.
    pub(super) fn take<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Result<Option<T>, ManifestError> {
        match self.left.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value)
                .map(Some)
                .map_err(|why| ManifestError::field(self.at(name), why)),
        }
    }

    /// A nested object of known fields; its unknown ones are passed over.
    pub(super) fn object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Fields) -> Result<T, ManifestError>,
    ) -> Result<Option<T>, ManifestError> {
        match self.left.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(&mut Fields::new(name, value)?).map(Some),
        }
    }

    /// A nested object of free names.
    pub(super) fn map<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str, Value) -> Result<T, String>,
    ) -> Result<BTreeMap<String, T>, ManifestError> {
        let Some(value) = self.left.remove(name).filter(|v| !v.is_null()) else {
            return Ok(BTreeMap::new());
        };
        Fields::new(name, value)?
            .left
            .into_iter()
            .map(|(key, value)| match read(&key, value) {
                Ok(value) => Ok((key, value)),
                Err(why) => Err(ManifestError::field(format!("{name}.{key}"), why)),
            })
            .collect()
    }

    /// Says that a field is missing, and what was perhaps meant to be it.
    pub(super) fn missing(&self, name: &str) -> String {
        match unknown::instead_of(name, &self.left) {
            Some(instead) => format!("is missing; is `{instead}` meant to be it?"),
            None => "is missing".to_owned(),
        }
    }

    /// The fields that were not taken.
    pub(super) fn rest(self) -> Map<String, Value> {
        self.left
    }

    fn at(&self, name: &str) -> String {
        match self.path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

pub(super) fn wanted(what: &str, value: &Value) -> String {
    format!("must be {what}, not {}", kind(value))
}

pub(super) fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(wanted("text", &other)),
    }
}

pub(super) fn number(value: &Value) -> Result<u64, String> {
    value.as_u64().ok_or_else(|| match value {
        Value::Number(_) => "must be a whole number that is not negative".to_owned(),
        other => wanted("a number", other),
    })
}

pub(super) fn name(value: Value) -> Result<String, String> {
    let name = text(value)?;
    check_name("bundle name", &name)
        .map_err(|_| "must be 1 to 100 of a-z A-Z 0-9 . _ -, starting with a letter or digit")?;
    Ok(name)
}

/// A version becomes part of a folder's name and of `name:version`.
pub(super) fn version(value: Value) -> Result<String, String> {
    let version = text(value)?;
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b'~');
    let first = version.bytes().next();
    if first.is_some_and(|b| b.is_ascii_alphanumeric())
        && version.len() <= 100
        && version.bytes().all(good)
    {
        return Ok(version);
    }
    Err("must be 1 to 100 of a-z A-Z 0-9 . _ - + ~, starting with a letter or digit".to_owned())
}

pub(super) fn script(value: Value) -> Result<String, String> {
    let script = text(value)?;
    if script.trim().is_empty() {
        return Err("must not be empty; leave the field out instead".to_owned());
    }
    if script.contains('\0') {
        return Err("must not contain a NUL character".to_owned());
    }
    if script.len() > MAX_SCRIPT_BYTES {
        return Err(format!(
            "is longer than {MAX_SCRIPT_BYTES} bytes; put it into a file of the bundle"
        ));
    }
    Ok(script)
}

pub(super) fn within(value: &Value, least: u64, most: u64) -> Result<u64, String> {
    match number(value)? {
        number if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("must be {least} to {most}")),
    }
}

pub(super) fn timeout(value: Value) -> Result<u64, String> {
    within(&value, 1, MAX_TIMEOUT_SECONDS)
}

pub(super) fn env(name: &str, value: Value) -> Result<String, String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err("is not a name of an environment variable".to_owned());
    }
    let value = text(value)?;
    if value.contains('\0') {
        return Err("must not contain a NUL character".to_owned());
    }
    Ok(value)
}

pub(super) fn flag(value: &Value) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| wanted("true or false", value))
}

pub(super) fn links(value: Value) -> Result<Links, String> {
    match text(value)?.as_str() {
        "inside" => Ok(Links::Inside),
        "any" => Ok(Links::Any),
        _ => Err("must be `inside` or `any`".to_owned()),
    }
}

pub(super) fn restart(value: Value) -> Result<Restart, String> {
    match text(value)?.as_str() {
        "expected" => Ok(Restart::Expected),
        _ => Err("must be `expected`".to_owned()),
    }
}
