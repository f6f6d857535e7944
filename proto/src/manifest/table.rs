//! Every field of the manifest, once: what is known and what is not, what a mistyped name was meant
//! to be, and the published JSON Schema are all made from this table.

use super::{DEFAULT_RETRY_SECONDS, DEFAULT_TIMEOUT_SECONDS};

/// Seconds between two probes when the manifest does not say.
pub(super) const DEFAULT_INTERVAL_SECONDS: u64 = 5;
/// Seconds one probe may take when the manifest does not say.
pub(super) const DEFAULT_PROBE_SECONDS: u64 = 5;
/// Failed probes that are forgiven when the manifest does not say.
pub(super) const DEFAULT_RETRIES: u64 = 3;
/// Most failed probes that may be forgiven.
pub(super) const MAX_RETRIES: u64 = 10_000;

pub(super) struct Field {
    /// Where it stands, as `deploy.script`.
    pub(super) path: &'static str,
    /// What it means, for editors.
    pub(super) about: &'static str,
    /// What it may hold.
    pub(super) shape: Shape,
    /// Other names that people have for it.
    pub(super) also: &'static [&'static str],
}

/// What a field may hold.
pub(super) enum Shape {
    Name,
    Version,
    /// An object whose fields are in the table.
    Object,
    /// The same, with exactly one of these.
    OneFieldOf(&'static [&'static str]),
    Script,
    Seconds {
        least: u64,
        default: u64,
    },
    Count {
        most: Option<u64>,
        default: Option<u64>,
    },
    /// An object whose names and texts the author chooses.
    Texts,
    /// A text or a list of texts.
    Words,
    HostPort,
    HttpAddress,
    /// One of these words.
    Word {
        words: &'static [&'static str],
        default: Option<&'static str>,
    },
    Flag {
        default: bool,
    },
}

impl Field {
    const fn new(path: &'static str, shape: Shape, about: &'static str) -> Self {
        Self {
            path,
            about,
            shape,
            also: &[],
        }
    }

    const fn also(self, also: &'static [&'static str]) -> Self {
        Self { also, ..self }
    }

    /// The object it stands in; empty at the top.
    pub(super) fn parent(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(parent, _)| parent)
    }

    /// Its name within that object.
    pub(super) fn name(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or(self.path, |(_, name)| name)
    }

    /// Whether the names in it are of this table.
    pub(super) fn is_object(&self) -> bool {
        matches!(self.shape, Shape::Object | Shape::OneFieldOf(_))
    }
}

/// The fields that stand in an object; the top has an empty path.
pub(super) fn fields_of(parent: &str) -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(move |field| field.parent() == parent)
}

const fn seconds(least: u64, default: u64) -> Shape {
    Shape::Seconds { least, default }
}

pub(super) static FIELDS: &[Field] = &[
    Field::new(
        "name",
        Shape::Name,
        "Name of the bundle; `default` when absent. An upload may replace it.",
    ),
    Field::new(
        "version",
        Shape::Version,
        "Version of the bundle. The same name and version never stand for other bytes.",
    ),
    Field::new("deploy", Shape::Object, "How the bundle is put to work."),
    Field::new(
        "deploy.script",
        Shape::Script,
        "A shell command or a file in the bundle, run in the release's folder before `current` is switched.",
    ),
    Field::new(
        "deploy.timeout_seconds",
        seconds(1, DEFAULT_TIMEOUT_SECONDS),
        "Limit for each script. The agent's own configuration caps it, at 300 unless it says otherwise.",
    ),
    Field::new(
        "hooks",
        Shape::Object,
        "Scripts around the switch of `current`.",
    )
    .also(&["hook"]),
    Field::new(
        "hooks.pre",
        Shape::Script,
        "Runs before `deploy.script`. Exit 75 asks to be asked again later; any other non-zero exit refuses the deploy.",
    )
    .also(&["prehook", "predeploy", "preinstall"]),
    Field::new(
        "hooks.post",
        Shape::Script,
        "Runs after `current` was switched; the place to restart what runs through `current`.",
    )
    .also(&["posthook", "postdeploy", "postinstall"]),
    Field::new(
        "hooks.retry_seconds",
        seconds(1, DEFAULT_RETRY_SECONDS),
        "Seconds after which a `pre` that exited 75 is run again.",
    ),
    Field::new("rollback", Shape::Object, "How to go back."),
    Field::new(
        "rollback.script",
        Shape::Script,
        "Brings this release back to work after a newer one failed; runs in this release's folder in place of `deploy.script` and `hooks.post`.",
    ),
    Field::new(
        "health",
        Shape::OneFieldOf(&["command", "tcp", "http"]),
        "How the release shows that it is healthy, after `hooks.post`. Exactly one of `command`, `tcp` and `http`.",
    )
    .also(&["healthcheck", "healthchecks", "healthprobe"]),
    Field::new(
        "health.command",
        Shape::Script,
        "Shell command or file of the bundle; exit code 0 is healthy.",
    ),
    Field::new(
        "health.tcp",
        Shape::HostPort,
        "`host:port`; a connection that opens is healthy.",
    ),
    Field::new(
        "health.http",
        Shape::HttpAddress,
        "Address; an answer with a status of 200 to 399 is healthy. Redirects are not followed.",
    ),
    Field::new(
        "health.initial_delay_seconds",
        seconds(0, 0),
        "Seconds before the first probe.",
    ),
    Field::new(
        "health.interval_seconds",
        seconds(1, DEFAULT_INTERVAL_SECONDS),
        "Seconds from the end of one probe to the next.",
    ),
    Field::new(
        "health.timeout_seconds",
        seconds(1, DEFAULT_PROBE_SECONDS),
        "Seconds one probe may take.",
    ),
    Field::new(
        "health.retries",
        Shape::Count {
            most: Some(MAX_RETRIES),
            default: Some(DEFAULT_RETRIES),
        },
        "Failed probes that are forgiven over the whole check; one more and the release is unhealthy.",
    ),
    Field::new(
        "health.hold_seconds",
        seconds(0, 0),
        "Seconds for which every probe has to succeed before the deploy has succeeded.",
    ),
    Field::new(
        "env",
        Shape::Texts,
        "Environment variables for every script of the bundle.",
    )
    .also(&["envs", "environment"]),
    Field::new(
        "requires",
        Shape::Object,
        "What the device must offer; otherwise the deploy fails with `requirements`.",
    )
    .also(&["requirements"]),
    Field::new(
        "requires.os",
        Shape::Words,
        "Operating systems that will do, e.g. `linux`.",
    ),
    Field::new(
        "requires.arch",
        Shape::Words,
        "Processor architectures that will do, e.g. `x86_64` (also `amd64`) or `aarch64` (also `arm64`).",
    ),
    Field::new(
        "requires.disk_bytes",
        Shape::Count {
            most: None,
            default: None,
        },
        "Free bytes needed beside the unpacked bundle.",
    ),
    Field::new(
        "restart",
        Shape::Word {
            words: &["expected"],
            default: None,
        },
        "`expected`: the deploy script may exit 75 once it has arranged for the machine or the agent to restart, and the deploy goes on after.",
    ),
    Field::new(
        "links",
        Shape::Word {
            words: &["inside", "any"],
            default: Some("inside"),
        },
        "Which symbolic links the archive may hold: `inside`, relative ones that stay in the bundle, or `any`, also absolute ones and such as lead out.",
    ),
    Field::new(
        "no_new_privs",
        Shape::Flag { default: true },
        "Whether scripts, and what they start, can never get more rights than the agent has. `false` lets them use sudo, unless the device forbids it.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_there_once_and_after_what_it_stands_in() {
        for (at, field) in FIELDS.iter().enumerate() {
            let before = || FIELDS.iter().take(at);
            assert!(before().all(|b| b.path != field.path), "{}", field.path);
            let parent = field.parent();
            assert!(
                parent.is_empty() || before().any(|b| b.path == parent && b.is_object()),
                "{}",
                field.path
            );
        }
    }
}
