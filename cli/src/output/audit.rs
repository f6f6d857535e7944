//! Entries of the audit, as printed.

use super::{Field, Time, View, event::fields, short_id, state_word, wire::Wire};
use kernex_proto::v1;
use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct AuditView {
    entry: Wire<v1::AuditEntry>,
}

impl From<v1::AuditEntry> for AuditView {
    fn from(entry: v1::AuditEntry) -> Self {
        Self { entry: Wire(entry) }
    }
}

impl AuditView {
    /// "denied, 12 times"
    fn result(&self) -> String {
        let result = state_word!(v1::AuditResult, self.entry.result, "AUDIT_RESULT_");
        match self.entry.count {
            0 | 1 => result,
            count => format!("{result}, {count} times"),
        }
    }

    /// "ada", or "token 01a22470-1f3c" of a device that enrolled with that token.
    fn who(&self, wide: bool) -> String {
        let who = &self.entry.principal;
        match who.strip_prefix(OF_TOKEN).filter(|_| !wide) {
            Some(id) => format!("{OF_TOKEN}{}", short_id(id)),
            None => who.clone(),
        }
    }

    /// "edge-1", with the id behind it where there is room.
    fn on(&self, wide: bool) -> String {
        let (id, name) = (&self.entry.subject, &self.entry.subject_name);
        match (name.is_empty(), wide) {
            (true, true) => id.clone(),
            (true, false) => short_id(id).to_owned(),
            (false, true) => format!("{name} ({id})"),
            (false, false) => name.clone(),
        }
    }
}

/// Begins the principal of a device that enrolled.
const OF_TOKEN: &str = "token ";

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
        let entry = &self.entry;
        let at = Time::from_wire(entry.at);
        let mut row = vec![
            Field::plain(at.map_or_else(String::new, |at| at.to_seconds())),
            Field::plain(self.who(wide)),
            Field::plain(&entry.address),
            Field::state(&self.result()),
            Field::whole(&entry.method),
            Field::plain(self.on(wide)),
        ];
        if wide {
            row.push(Field::plain(fields(&entry.detail_json, &[])));
            row.push(Field::plain(&entry.token_id));
            row.push(Field::plain(&entry.request_id));
        }
        row
    }

    fn name(&self) -> String {
        self.entry.id.clone()
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
        insta::assert_snapshot!(line(Format::Json), @r#"{"id":"01","at":"1970-01-01T00:01:40.000000005Z","principal":"ada","token_id":"t","address":"192.0.2.7","method":"DeleteDevice","subject":"","result":"denied","count":12,"request_id":"","detail":{},"subject_name":""}"#);
    }

    #[test]
    fn what_it_was_about_is_told_by_its_name() {
        let id = "01a22470-1f3c-7abc-8def-000000000001";
        let view = |name: &str| {
            AuditView::from(v1::AuditEntry {
                principal: format!("token {id}"),
                subject: id.into(),
                subject_name: name.into(),
                ..Default::default()
            })
        };
        assert_eq!(view("edge-1").on(false), "edge-1");
        assert_eq!(view("edge-1").on(true), format!("edge-1 ({id})"));
        assert_eq!(view("").on(false), "01a22470-1f3c");
        assert_eq!(view("").on(true), id);
        assert_eq!(view("").who(false), "token 01a22470-1f3c");
        assert_eq!(view("").who(true), format!("token {id}"));
    }
}
