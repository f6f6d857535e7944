//! Contexts and enrolment tokens, as printed.

use kernex_proto::v1;
use serde::Serialize;

use super::{Details, Field, Time, View, ago, device::pairs, wire::Wire};

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
    #[serde(flatten)]
    token: Wire<v1::EnrollmentToken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl From<v1::EnrollmentToken> for EnrollmentView {
    fn from(token: v1::EnrollmentToken) -> Self {
        Self {
            token: Wire(token),
            text: None,
        }
    }
}

impl EnrollmentView {
    /// Adds the text, which is known only once.
    pub(crate) fn with_text(self, text: String) -> Self {
        Self {
            text: Some(text),
            ..self
        }
    }

    fn state(&self, now: Time) -> &'static str {
        let expires = Time::from_wire(self.token.expires_at);
        if self.token.revoked {
            "revoked"
        } else if expires.is_some_and(|at| at < now) {
            "expired"
        } else if self.token.uses_left == 0 {
            "used"
        } else {
            "open"
        }
    }

    fn uses(&self) -> String {
        format!("{} of {}", self.token.uses_left, self.token.uses_total)
    }

    fn expires(&self, now: Time) -> Field {
        Field::plain(ago(Time::from_wire(self.token.expires_at), now))
    }

    fn labels(&self) -> Field {
        Field::plain(pairs(&self.token.labels))
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
        let token = &self.token;
        let mut row = vec![
            Field::plain(&token.id),
            Field::state(self.state(now)),
            Field::plain(self.uses()),
            self.expires(now),
            self.labels(),
            Field::plain(&token.replaces_device),
        ];
        if wide {
            row.push(Field::plain(&token.created_by));
            row.push(Field::plain(ago(Time::from_wire(token.created_at), now)));
        }
        row
    }

    /// The token's text while it is known: scripts use `create -o name` to get it.
    fn name(&self) -> String {
        self.text.clone().unwrap_or_else(|| self.token.id.clone())
    }
}

impl Details for EnrollmentView {
    fn details(&self, _wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        let token = &self.token;
        let mut lines = Vec::new();
        if let Some(text) = &self.text {
            lines.push(("Token", Field::plain(text)));
        }
        lines.extend([
            ("Id", Field::plain(&token.id)),
            ("Uses left", Field::plain(self.uses())),
            ("Expires", self.expires(now)),
            ("Labels", self.labels()),
        ]);
        if !token.replaces_device.is_empty() {
            lines.push(("Replaces", Field::plain(&token.replaces_device)));
        }
        lines
    }
}
