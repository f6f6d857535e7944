//! Entries of the audit, as printed.

use kernex_proto::v1;
use serde::Serialize;
use serde_json::Value;

use super::{Field, Time, View, event::fields, state_word};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct AuditView {
    id: String,
    at: Option<Time>,
    /// Empty when nobody was recognised.
    principal: String,
    /// Empty for the server itself, devices, and entries of earlier versions.
    token_id: String,
    address: String,
    method: String,
    /// Empty for a refusal.
    subject: String,
    /// "ok", "denied" or "unauthenticated".
    result: String,
    /// How many refusals alike it stands for.
    count: u64,
    request_id: String,
    detail: Value,
}

impl From<v1::AuditEntry> for AuditView {
    fn from(wire: v1::AuditEntry) -> Self {
        Self {
            at: Time::from_wire(wire.at),
            result: state_word!(v1::AuditResult, wire.result, "AUDIT_RESULT_"),
            detail: serde_json::from_str(&wire.detail_json).unwrap_or(Value::Null),
            id: wire.id,
            principal: wire.principal,
            token_id: wire.token_id,
            address: wire.address,
            method: wire.method,
            subject: wire.subject,
            count: wire.count,
            request_id: wire.request_id,
        }
    }
}

impl AuditView {
    /// "denied, 12 times"
    fn result(&self) -> String {
        match self.count {
            0 | 1 => self.result.clone(),
            count => format!("{}, {count} times", self.result),
        }
    }
}

impl View for AuditView {
    const EMPTY: &'static str = "No entry of the audit is like that.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["AT", "BY", "FROM", "RESULT", "METHOD", "ON"];
        if wide {
            titles.extend(["DETAIL", "TOKEN ID", "REQUEST ID"]);
        }
        titles
    }

    fn row(&self, wide: bool, _now: Time) -> Vec<Field> {
        let mut row = vec![
            Field::plain(self.at.map_or_else(String::new, |at| at.to_seconds())),
            Field::plain(&self.principal),
            Field::plain(&self.address),
            Field::state(&self.result()),
            Field::plain(&self.method),
            Field::plain(&self.subject),
        ];
        if wide {
            row.push(Field::plain(fields(&self.detail)));
            row.push(Field::plain(&self.token_id));
            row.push(Field::plain(&self.request_id));
        }
        row
    }

    fn name(&self) -> String {
        self.id.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Printer};
    use super::*;

    #[test]
    fn an_entry_is_one_line() {
        let entry = v1::AuditEntry {
            id: "01".into(),
            at: Some(prost_types::Timestamp {
                seconds: 100,
                nanos: 5,
            }),
            principal: "ada".into(),
            token_id: "t".into(),
            address: "192.0.2.7".into(),
            method: "DeleteDevice".into(),
            result: v1::AuditResult::Denied.into(),
            count: 12,
            detail_json: "{}".into(),
            ..Default::default()
        };
        let line = |format| {
            Printer::plain(format)
                .render_line(&AuditView::from(entry.clone()), Time::at(110))
                .unwrap()
        };
        insta::assert_snapshot!(line(Format::Table), @"1970-01-01T00:01:40Z  ada  192.0.2.7  denied, 12 times  DeleteDevice  -");
        insta::assert_snapshot!(line(Format::Json), @r#"{"id":"01","at":"1970-01-01T00:01:40.000000005Z","principal":"ada","token_id":"t","address":"192.0.2.7","method":"DeleteDevice","subject":"","result":"denied","count":12,"request_id":"","detail":{}}"#);
    }
}
