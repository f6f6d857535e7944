//! What `manifest.json` may say. It is checked once, here, so that all other code can trust it.
//!
//! Unknown fields are kept, because a bundle may be newer than the agent that reads it. Every error
//! names the field by its path and says why, because an operator reads it far from the file.

mod fields;
mod health;
mod json;
mod requires;
mod schema;
mod table;
mod unknown;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::fields::Fields;
pub use self::health::{Health, Probe};
pub use self::requires::{OneOf, Requires, Unmet};
pub use self::schema::schema;
pub use self::unknown::{UnknownField, unknown_fields};

/// Name of the manifest within the archive.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Largest manifest that is read, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 1024 * 1024;

/// How long a script may run when the manifest does not say, in seconds.
pub const DEFAULT_TIMEOUT_SECONDS: u64 = 300;

/// Longest limit a manifest may ask for; the agent's own configuration caps it further.
pub const MAX_TIMEOUT_SECONDS: u64 = 86_400;

/// Exit code of `hooks.pre` that asks to be asked again later, and of a `deploy.script` that waits
/// for a restart: `EX_TEMPFAIL` of `sysexits.h`.
pub const TRY_AGAIN_EXIT_CODE: i32 = 75;

/// Seconds until a `hooks.pre` that asked for time runs again, when the manifest does not say.
pub const DEFAULT_RETRY_SECONDS: u64 = 60;

/// Bundle name when neither manifest nor upload gives one.
pub const DEFAULT_NAME: &str = "default";

/// The manifest of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct Manifest {
    /// Bundle name; see [`Manifest::name_or_default`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Version, the only field that must be there.
    pub version: String,
    /// How the bundle is deployed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy: Option<Deploy>,
    /// Scripts around the switch of `current`.
    #[serde(skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// How to go back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
    /// How the release shows that it is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Environment of every script.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What the device must offer.
    #[serde(skip_serializing_if = "Requires::is_empty")]
    pub requires: Requires,
    /// Whether the script may ask for a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Which symbolic links the archive may hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<Links>,
    /// Whether scripts can never get more rights than the agent has; see
    /// [`Manifest::allows_new_privs`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_new_privs: Option<bool>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How the bundle is deployed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Deploy {
    /// Shell command, or a file in the bundle; run with `/bin/sh` in the release's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// Limit for each script, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
}

/// Scripts around the switch of `current`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hooks {
    /// Before the deploy script; exit 75 asks to be asked again later, any other non-zero exit
    /// refuses the deploy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre: Option<String>,
    /// After `current` was switched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post: Option<String>,
    /// Seconds after which a `pre` that exited 75 is run again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_seconds: Option<u64>,
}

impl Hooks {
    /// Whether there is no hook at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How to go back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rollback {
    /// Makes this release work again after a newer one failed; run in this release's folder in
    /// place of `deploy.script` and `hooks.post`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
}

/// Whether the script may ask for a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// The script may exit 75 once it has arranged for the machine or the agent to restart; the
    /// deploy goes on after.
    Expected,
}

/// Which symbolic links the archive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Links {
    /// Relative ones that stay inside the bundle.
    Inside,
    /// Also absolute ones and such as lead out: a Python environment or a root file system has
    /// them. Kernex makes them and never writes or reads through them.
    Any,
}

/// Why a manifest is not valid: which field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{MANIFEST_FILE}: {field}{why}", field = Named(.field))]
pub struct ManifestError {
    /// Path of the field, like `deploy.timeout_seconds`; empty for the whole file.
    pub field: String,
    /// What is wrong, as the rest of a sentence that starts with the field.
    pub why: String,
}

/// Shows a field as "`name` " and the whole file as nothing.
struct Named<'a>(&'a str);

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            "" => Ok(()),
            field => write!(f, "`{field}` "),
        }
    }
}

impl ManifestError {
    fn file(why: impl Into<String>) -> Self {
        Self {
            field: String::new(),
            why: why.into(),
        }
    }

    fn field(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            why: why.into(),
        }
    }
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        Self::try_from(read_json(bytes)?)
    }

    /// Whether its archive may hold symbolic links that are absolute or lead out.
    #[must_use]
    pub fn allows_any_link(&self) -> bool {
        self.links == Some(Links::Any)
    }

    /// Whether its scripts, and what they start, may get rights that the agent has not got.
    #[must_use]
    pub fn allows_new_privs(&self) -> bool {
        self.no_new_privs == Some(false)
    }

    /// Every script, with the field that names it.
    pub fn scripts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let probe = match &self.health {
            Some(Health {
                probe: Probe::Command(command),
                ..
            }) => Some(command.as_str()),
            _ => None,
        };
        let all = [
            ("hooks.pre", self.hooks.pre.as_deref()),
            ("deploy.script", self.script()),
            ("hooks.post", self.hooks.post.as_deref()),
            ("health.command", probe),
            ("rollback.script", self.rollback_script()),
        ];
        all.into_iter()
            .filter_map(|(field, script)| Some((field, script?)))
    }

    /// The bundle's name, `default` when the manifest gives none.
    #[must_use]
    pub fn name_or_default(&self) -> &str {
        self.name.as_deref().unwrap_or(DEFAULT_NAME)
    }

    /// The deploy script, if there is one.
    #[must_use]
    pub fn script(&self) -> Option<&str> {
        self.deploy.as_ref()?.script.as_deref()
    }

    /// The rollback script, if there is one.
    #[must_use]
    pub fn rollback_script(&self) -> Option<&str> {
        self.rollback.as_ref()?.script.as_deref()
    }

    /// Limit for each script in the manifest; the agent caps it.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        let wished = self.deploy.as_ref().and_then(|d| d.timeout_seconds);
        Duration::from_secs(wished.unwrap_or(DEFAULT_TIMEOUT_SECONDS))
    }

    /// Time until a `hooks.pre` that asked for time runs again.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        Duration::from_secs(self.hooks.retry_seconds.unwrap_or(DEFAULT_RETRY_SECONDS))
    }
}

/// The JSON of a manifest, whatever fields it has.
pub fn read_json(bytes: &[u8]) -> Result<Value, ManifestError> {
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(ManifestError::file(format!(
            "the file is larger than {MAX_MANIFEST_BYTES} bytes"
        )));
    }
    // Some editors put a byte order mark in front; JSON knows none.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    json::read(bytes).map_err(|error| {
        ManifestError::file(match error.classify() {
            serde_json::error::Category::Data => error.to_string(),
            _ => format!("this is not JSON: {error}"),
        })
    })
}

impl TryFrom<Value> for Manifest {
    type Error = ManifestError;

    fn try_from(value: Value) -> Result<Self, ManifestError> {
        let mut top = Fields::new("", value)?;
        let manifest = Self {
            name: top.take("name", fields::name)?,
            version: top
                .take("version", fields::version)?
                .ok_or_else(|| ManifestError::field("version", top.missing("version")))?,
            deploy: top.object("deploy", |f| {
                Ok(Deploy {
                    script: f.take("script", fields::script)?,
                    timeout_seconds: f.take("timeout_seconds", fields::timeout)?,
                })
            })?,
            hooks: top
                .object("hooks", |f| {
                    Ok(Hooks {
                        pre: f.take("pre", fields::script)?,
                        post: f.take("post", fields::script)?,
                        retry_seconds: f.take("retry_seconds", fields::timeout)?,
                    })
                })?
                .unwrap_or_default(),
            rollback: top.object("rollback", |f| {
                Ok(Rollback {
                    script: f.take("script", fields::script)?,
                })
            })?,
            health: top.object("health", Health::read)?,
            env: top.map("env", fields::env)?,
            requires: top.object("requires", Requires::read)?.unwrap_or_default(),
            restart: top.take("restart", fields::restart)?,
            links: top.take("links", fields::links)?,
            no_new_privs: top.take("no_new_privs", |value| fields::flag(&value))?,
            extra: Map::new(),
        };
        Ok(Self {
            extra: top.rest(),
            ..manifest
        })
    }
}

#[cfg(test)]
mod tests;
