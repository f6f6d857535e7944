//! Operator tokens, as printed.

use kernex_proto::v1;
use serde::Serialize;

use super::{Details, Field, Time, View, ago, state_word};

/// A token without its secret.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TokenView {
    id: String,
    name: String,
    role: String,
    created_by: String,
    created_at: Option<Time>,
    expires_at: Option<Time>,
    revoked_at: Option<Time>,
    /// To half a minute; null before the first time.
    last_used_at: Option<Time>,
    /// Empty before the first time.
    last_used_from: String,
}

impl From<v1::OperatorToken> for TokenView {
    fn from(wire: v1::OperatorToken) -> Self {
        Self {
            role: state_word!(v1::Role, wire.role, "ROLE_"),
            created_at: Time::from_wire(wire.created_at),
            expires_at: Time::from_wire(wire.expires_at),
            revoked_at: Time::from_wire(wire.revoked_at),
            last_used_at: Time::from_wire(wire.last_used_at),
            id: wire.id,
            name: wire.name,
            created_by: wire.created_by,
            last_used_from: wire.last_used_from,
        }
    }
}

impl TokenView {
    /// Whether it can still be used.
    pub(crate) fn works(&self, now: Time) -> bool {
        self.state(now) == "works"
    }

    fn state(&self, now: Time) -> &'static str {
        if self.revoked_at.is_some() {
            "revoked"
        } else if self.expires_at.is_some_and(|at| at < now) {
            "expired"
        } else {
            "works"
        }
    }
}

impl View for TokenView {
    const EMPTY: &'static str =
        "No tokens that work. Make one: `kernexctl token create NAME --role ROLE`.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["NAME", "ROLE", "STATE", "EXPIRES", "LAST USED", "FROM"];
        if wide {
            titles.extend(["MADE", "MADE BY", "ID"]);
        }
        titles
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        let mut row = vec![
            Field::plain(&self.name),
            Field::plain(&self.role),
            Field::state(self.state(now)),
            Field::plain(ago(self.expires_at, now)),
            Field::plain(ago(self.last_used_at, now)),
            Field::plain(&self.last_used_from),
        ];
        if wide {
            row.push(Field::plain(ago(self.created_at, now)));
            row.push(Field::plain(&self.created_by));
            row.push(Field::plain(&self.id));
        }
        row
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// A token right after it was made: the only moment at which its text is known.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NewTokenView {
    id: String,
    token: String,
    name: String,
    role: String,
    expires_at: Option<Time>,
}

impl NewTokenView {
    pub(crate) fn new(name: String, role: v1::Role, made: v1::CreateOperatorTokenResponse) -> Self {
        Self {
            id: made.token_id,
            token: made.text,
            name,
            role: state_word!(v1::Role, i32::from(role), "ROLE_"),
            expires_at: Time::from_wire(made.expires_at),
        }
    }
}

impl View for NewTokenView {
    const EMPTY: &'static str = "No token was made.";

    fn header(_wide: bool) -> Vec<&'static str> {
        vec!["NAME", "ROLE", "EXPIRES", "TOKEN", "ID"]
    }

    fn row(&self, _wide: bool, now: Time) -> Vec<Field> {
        vec![
            Field::plain(&self.name),
            Field::plain(&self.role),
            Field::plain(ago(self.expires_at, now)),
            Field::plain(&self.token),
            Field::plain(&self.id),
        ]
    }

    /// Scripts use `create -o name` to get the text.
    fn name(&self) -> String {
        self.token.clone()
    }
}

impl Details for NewTokenView {
    fn details(&self, _wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        vec![
            ("Token", Field::plain(&self.token)),
            ("Id", Field::plain(&self.id)),
            ("Name", Field::plain(&self.name)),
            ("Role", Field::plain(&self.role)),
            ("Expires", Field::plain(ago(self.expires_at, now))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Printer};
    use super::*;

    #[test]
    fn a_token_says_whether_it_works_and_who_uses_it() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let token = v1::OperatorToken {
            id: "01".into(),
            name: "ci".into(),
            role: v1::Role::Operator.into(),
            created_by: "admin".into(),
            created_at: at(0),
            expires_at: at(1_000),
            last_used_at: at(90),
            last_used_from: "192.0.2.7".into(),
            ..Default::default()
        };
        let line = |token: v1::OperatorToken, now| {
            Printer::plain(Format::Wide)
                .render_line(&TokenView::from(token), Time::at(now))
                .unwrap()
        };
        insta::assert_snapshot!(line(token.clone(), 100), @"ci  operator  works  in 15m  10s ago  192.0.2.7  1m40s ago  admin  01");
        insta::assert_snapshot!(line(token.clone(), 2_000), @"ci  operator  expired  16m ago  31m ago  192.0.2.7  33m ago  admin  01");
        let revoked = v1::OperatorToken {
            revoked_at: at(95),
            ..token
        };
        assert!(!TokenView::from(revoked).works(Time::at(100)));
    }
}
