//! Contexts and enrolment tokens, as printed.

use std::collections::BTreeMap;

use kernex_proto::v1;
use serde::Serialize;

use super::{Details, Field, Time, View, ago, device::pairs};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ContextView {
    pub(crate) name: String,
    pub(crate) server: String,
    pub(crate) current: bool,
}

impl View for ContextView {
    const EMPTY: &'static str = "No contexts. Add one: `kernexctl context add NAME --server URL --ca FILE --token-file FILE`.";

    fn header(_wide: bool) -> Vec<&'static str> {
        vec!["CURRENT", "NAME", "SERVER"]
    }

    fn row(&self, _wide: bool, _now: Time) -> Vec<Field> {
        vec![
            Field::plain(if self.current { "*" } else { "" }),
            Field::plain(&self.name),
            Field::plain(&self.server),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// An enrolment token. Its text is known only right after it was made.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EnrollmentView {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    uses_left: u32,
    uses_total: u32,
    expires_at: Option<Time>,
    labels: BTreeMap<String, String>,
    replaces_device: String,
    created_by: String,
    created_at: Option<Time>,
    revoked: bool,
}

impl From<v1::EnrollmentToken> for EnrollmentView {
    fn from(wire: v1::EnrollmentToken) -> Self {
        Self {
            token: None,
            expires_at: Time::from_wire(wire.expires_at),
            created_at: Time::from_wire(wire.created_at),
            labels: wire.labels.into_iter().collect(),
            id: wire.id,
            uses_left: wire.uses_left,
            uses_total: wire.uses_total,
            replaces_device: wire.replaces_device,
            created_by: wire.created_by,
            revoked: wire.revoked,
        }
    }
}

impl EnrollmentView {
    /// Adds the text, which is known only once.
    pub(crate) fn with_text(self, text: String) -> Self {
        Self {
            token: Some(text),
            ..self
        }
    }

    fn state(&self, now: Time) -> &'static str {
        if self.revoked {
            "revoked"
        } else if self.expires_at.is_some_and(|at| at < now) {
            "expired"
        } else if self.uses_left == 0 {
            "used"
        } else {
            "open"
        }
    }

    fn uses(&self) -> String {
        format!("{} of {}", self.uses_left, self.uses_total)
    }
}

impl View for EnrollmentView {
    const EMPTY: &'static str = "No enrolment tokens. Make one: `kernexctl enrollment create`.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["ID", "STATE", "USES LEFT", "EXPIRES", "LABELS", "REPLACES"];
        if wide {
            titles.extend(["MADE BY", "MADE"]);
        }
        titles
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        let mut row = vec![
            Field::plain(&self.id),
            Field::state(self.state(now)),
            Field::plain(self.uses()),
            Field::plain(ago(self.expires_at, now)),
            Field::plain(pairs(&self.labels)),
            Field::plain(&self.replaces_device),
        ];
        if wide {
            row.push(Field::plain(&self.created_by));
            row.push(Field::plain(ago(self.created_at, now)));
        }
        row
    }

    /// The token's text while it is known: scripts use `create -o name` to get it.
    fn name(&self) -> String {
        self.token.clone().unwrap_or_else(|| self.id.clone())
    }
}

impl Details for EnrollmentView {
    fn details(&self, _wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        let mut lines = Vec::new();
        if let Some(text) = &self.token {
            lines.push(("Token", Field::plain(text)));
        }
        lines.extend([
            ("Id", Field::plain(&self.id)),
            ("Uses left", Field::plain(self.uses())),
            ("Expires", Field::plain(ago(self.expires_at, now))),
            ("Labels", Field::plain(pairs(&self.labels))),
        ]);
        if !self.replaces_device.is_empty() {
            lines.push(("Replaces", Field::plain(&self.replaces_device)));
        }
        lines
    }
}
