//! Operator tokens, as printed.

use kernex_proto::v1;
use serde::Serialize;

use super::{Details, Field, Time, View, ago, state_word, wire::Wire};

/// A token without its secret.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct TokenView {
    token: Wire<v1::OperatorToken>,
}

impl From<v1::OperatorToken> for TokenView {
    fn from(token: v1::OperatorToken) -> Self {
        Self { token: Wire(token) }
    }
}

impl TokenView {
    /// Whether it can still be used.
    pub(crate) fn works(&self, now: Time) -> bool {
        self.state(now) == "works"
    }

    fn state(&self, now: Time) -> &'static str {
        let expires = Time::from_wire(self.token.expires_at);
        if self.token.revoked_at.is_some() {
            "revoked"
        } else if expires.is_some_and(|at| at < now) {
            "expired"
        } else {
            "works"
        }
    }
}

fn role_word(role: i32) -> String {
    state_word!(v1::Role, role, "ROLE_")
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
        let token = &self.token;
        let when = |time| Field::plain(ago(Time::from_wire(time), now));
        let mut row = vec![
            Field::plain(&token.name),
            Field::plain(role_word(token.role)),
            Field::state(self.state(now)),
            when(token.expires_at),
            when(token.last_used_at),
            Field::plain(&token.last_used_from),
        ];
        if wide {
            row.push(when(token.created_at));
            row.push(Field::plain(&token.created_by));
            row.push(Field::plain(&token.id));
        }
        row
    }

    fn name(&self) -> String {
        self.token.name.clone()
    }
}

/// A token right after it was made: the only moment at which its text is known.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NewTokenView {
    #[serde(flatten)]
    made: Wire<v1::CreateOperatorTokenResponse>,
    /// As it was asked for.
    name: String,
    role: String,
}

impl NewTokenView {
    pub(crate) fn new(name: String, role: v1::Role, made: v1::CreateOperatorTokenResponse) -> Self {
        Self {
            made: Wire(made),
            name,
            role: role_word(role.into()),
        }
    }

    fn expires(&self, now: Time) -> Field {
        Field::plain(ago(Time::from_wire(self.made.expires_at), now))
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
            self.expires(now),
            Field::plain(&self.made.text),
            Field::plain(&self.made.token_id),
        ]
    }

    /// Scripts use `create -o name` to get the text.
    fn name(&self) -> String {
        self.made.text.clone()
    }
}

impl Details for NewTokenView {
    fn details(&self, _wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        vec![
            ("Token", Field::plain(&self.made.text)),
            ("Id", Field::plain(&self.made.token_id)),
            ("Name", Field::plain(&self.name)),
            ("Role", Field::plain(&self.role)),
            ("Expires", self.expires(now)),
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
