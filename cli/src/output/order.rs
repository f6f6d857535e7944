//! What was ordered, as printed.

use std::collections::BTreeMap;

use kernex_proto::v1;
use serde::Serialize;

use super::{Field, seconds, state_word};

/// An order, as it was given.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OrderView {
    /// Empty when devices were named one by one only.
    selector: String,
    /// How many devices were named one by one.
    named_devices: u32,
    /// What its maker noted.
    message: String,
    /// Address it came from; empty for the server itself.
    created_from: String,
    /// Token it was given with; empty for the server itself.
    token_id: String,
    /// 0 where an earlier server does not say.
    delivery_timeout_seconds: u64,
    execution_timeout_seconds: u64,
    /// Most targets in flight at a time; 0 means any number.
    max_in_flight: u32,
    /// Label to the most targets in flight with the same value of it.
    budgets: BTreeMap<String, u32>,
    /// Whether each phase after the first has to be promoted.
    approve: bool,
    /// "pause" or "rollback"; empty without phases.
    on_failure: String,
}

impl OrderView {
    pub(crate) fn new(wire: &v1::Deployment) -> Self {
        let rollout = wire.rollout.clone();
        let on_failure = rollout.as_ref().map(|rollout| match rollout.on_failure() {
            v1::OnFailure::Unspecified => "pause".to_owned(),
            _ => state_word!(v1::OnFailure, rollout.on_failure, "ON_FAILURE_"),
        });
        let rollout = rollout.unwrap_or_default();
        let budgets = rollout.budgets.into_iter();
        Self {
            selector: wire.selector.clone(),
            named_devices: wire.named_devices,
            message: wire.message.clone(),
            created_from: wire.created_from.clone(),
            token_id: wire.token_id.clone(),
            delivery_timeout_seconds: wire.delivery_timeout_seconds,
            execution_timeout_seconds: wire.execution_timeout_seconds,
            max_in_flight: rollout.max_in_flight,
            budgets: budgets.map(|budget| (budget.label, budget.max)).collect(),
            approve: rollout.approval,
            on_failure: on_failure.unwrap_or_default(),
        }
    }

    /// " from 192.0.2.7", or nothing.
    pub(crate) fn from(&self) -> String {
        match self.created_from.as_str() {
            "" => String::new(),
            address => format!(" from {address}"),
        }
    }

    /// One line for each thing that was said.
    pub(crate) fn details(&self) -> Vec<(&'static str, Field)> {
        let mut lines = Vec::new();
        let whom = match (self.selector.as_str(), self.named_devices) {
            ("", 0) => None,
            ("", named) => Some(devices(named)),
            (selector, 0) => Some(format!("devices that match {selector}")),
            (selector, named) => Some(format!(
                "devices that match {selector}, and {}",
                devices(named)
            )),
        };
        lines.extend(whom.map(|whom| ("To", Field::plain(whom))));
        if !self.message.is_empty() {
            lines.push(("Message", Field::plain(&self.message)));
        }
        if self.delivery_timeout_seconds > 0 {
            let limits = format!(
                "{} to reach a device, {} once it has begun",
                seconds(self.delivery_timeout_seconds),
                seconds(self.execution_timeout_seconds)
            );
            lines.push(("Timeouts", Field::plain(limits)));
        }
        let mut limits = Vec::new();
        if self.max_in_flight > 0 {
            limits.push(format!("{} devices", self.max_in_flight));
        }
        for (label, max) in &self.budgets {
            limits.push(format!("{max} of the same {label}"));
        }
        if !limits.is_empty() {
            let limits = format!("{} at a time", limits.join(", "));
            lines.push(("At most", Field::plain(limits)));
        }
        if self.approve {
            let gate = "each phase after the first waits for an operator";
            lines.push(("Approval", Field::plain(gate)));
        }
        if !self.on_failure.is_empty() {
            let text = match self.on_failure.as_str() {
                "rollback" => "return what was deployed to what ran before",
                "pause" => "pause until an operator decides",
                other => other,
            };
            lines.push(("On failure", Field::plain(text)));
        }
        lines
    }
}

fn devices(named: u32) -> String {
    match named {
        1 => "1 device by name".to_owned(),
        named => format!("{named} devices by name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_says_all_that_was_asked_for() {
        let lines = |wire: v1::Deployment| {
            let lines = OrderView::new(&wire).details();
            let text = lines
                .iter()
                .map(|(title, field)| format!("{title}: {}", field.text()));
            text.collect::<Vec<_>>().join("\n")
        };
        let wire = v1::Deployment {
            selector: "site=berlin".into(),
            named_devices: 2,
            message: "the fix for 17".into(),
            delivery_timeout_seconds: 604_800,
            execution_timeout_seconds: 3_600,
            rollout: Some(v1::Rollout {
                max_in_flight: 10,
                budgets: vec![v1::DisruptionBudget {
                    label: "rack".into(),
                    max: 2,
                }],
                approval: true,
                on_failure: v1::OnFailure::Rollback.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        insta::assert_snapshot!(lines(wire), @r"
        To: devices that match site=berlin, and 2 devices by name
        Message: the fix for 17
        Timeouts: 7d to reach a device, 1h once it has begun
        At most: 10 devices, 2 of the same rack at a time
        Approval: each phase after the first waits for an operator
        On failure: return what was deployed to what ran before
        ");
        insta::assert_snapshot!(lines(v1::Deployment::default()), @"");
    }
}
