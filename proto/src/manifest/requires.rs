//! What a device must offer, and whether it does.

use serde::Serialize;
use serde_json::Value;

use super::{
    ManifestError,
    fields::{self, Fields},
};
use crate::units;

/// What the device must offer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Requires {
    /// Allowed operating systems, in the words of [`std::env::consts::OS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<OneOf>,
    /// Allowed processor architectures, in the words of [`std::env::consts::ARCH`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<OneOf>,
    /// Free bytes needed beside the unpacked bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
}

/// A list of allowed words; a single text in the manifest is a list of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct OneOf(pub Vec<String>);

/// A requirement this device does not meet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the bundle requires {field} {wanted}, this device has {found}")]
pub struct Unmet {
    /// Which requirement.
    pub field: &'static str,
    /// What the bundle asks for.
    pub wanted: String,
    /// What the device has.
    pub found: String,
}

impl Requires {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Compares with what a device has.
    pub fn check(&self, os: &str, arch: &str, free_bytes: u64) -> Result<(), Unmet> {
        for (field, wanted, found) in [("os", &self.os, os), ("arch", &self.arch, arch)] {
            if let Some(wanted) = wanted.as_ref().filter(|w| !w.allows(found)) {
                return Err(Unmet {
                    field,
                    wanted: wanted.0.join(" or "),
                    found: found.to_owned(),
                });
            }
        }
        match self.disk_bytes {
            Some(wanted) if wanted > free_bytes => Err(Unmet {
                field: "disk_bytes",
                wanted: units::bytes(wanted),
                found: units::bytes(free_bytes),
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn read(fields: &mut Fields) -> Result<Self, ManifestError> {
        Ok(Self {
            os: fields.take("os", one_of)?,
            arch: fields.take("arch", one_of)?,
            disk_bytes: fields.take("disk_bytes", |value| fields::number(&value))?,
        })
    }
}

impl OneOf {
    /// Whether `found` is in the list, whatever its case and under whichever of its usual names.
    #[must_use]
    pub fn allows(&self, found: &str) -> bool {
        self.0.iter().any(|wanted| same(wanted, found))
    }
}

/// The names container images and Go use are as common as ours.
fn same(a: &str, b: &str) -> bool {
    fn usual(word: &str) -> String {
        let word = word.to_ascii_lowercase();
        match word.as_str() {
            "amd64" | "x64" => "x86_64".to_owned(),
            "arm64" => "aarch64".to_owned(),
            "darwin" => "macos".to_owned(),
            _ => word,
        }
    }
    usual(a) == usual(b)
}

fn one_of(value: Value) -> Result<OneOf, String> {
    let list = match value {
        Value::String(word) => vec![word],
        Value::Array(words) => words
            .into_iter()
            .map(fields::text)
            .collect::<Result<_, _>>()
            .map_err(|why| format!("is a list each of whose entries {why}"))?,
        other => return Err(fields::wanted("text or a list of texts", &other)),
    };
    if list.is_empty() || list.iter().any(|word| word.trim().is_empty()) {
        return Err("must not be empty; leave the field out instead".to_owned());
    }
    Ok(OneOf(list))
}
