//! What was ordered, as printed.

use kernex_proto::v1;

use super::{Field, counted, seconds, state_word};

/// " from 192.0.2.7", or nothing where the server made it by itself.
pub(super) fn from(deployment: &v1::Deployment) -> String {
    match deployment.created_from.as_str() {
        "" => String::new(),
        address => format!(" from {address}"),
    }
}

/// One line for each thing that was asked for.
pub(super) fn details(deployment: &v1::Deployment) -> Vec<(&'static str, Field)> {
    let mut lines = Vec::new();
    lines.extend(whom(deployment).map(|whom| ("To", Field::plain(whom))));
    if !deployment.message.is_empty() {
        lines.push(("Message", Field::plain(&deployment.message)));
    }
    // An older server does not send them.
    if deployment.delivery_timeout_seconds > 0 {
        let limits = format!(
            "{} to reach a device, {} once it has begun",
            seconds(deployment.delivery_timeout_seconds),
            seconds(deployment.execution_timeout_seconds)
        );
        lines.push(("Timeouts", Field::plain(limits)));
    }
    lines.extend(deployment.rollout.iter().flat_map(rollout));
    lines
}

fn whom(deployment: &v1::Deployment) -> Option<String> {
    let named = |count: u32| format!("{} by name", counted(count.into(), "device"));
    match (deployment.selector.as_str(), deployment.named_devices) {
        ("", 0) => None,
        ("", count) => Some(named(count)),
        (selector, 0) => Some(format!("devices that match {selector}")),
        (selector, count) => Some(format!(
            "devices that match {selector}, and {}",
            named(count)
        )),
    }
}

fn rollout(rollout: &v1::Rollout) -> Vec<(&'static str, Field)> {
    let mut lines = Vec::new();
    let mut limits = Vec::new();
    if rollout.max_in_flight > 0 {
        limits.push(counted(rollout.max_in_flight.into(), "device"));
    }
    for budget in &rollout.budgets {
        limits.push(format!("{} of the same {}", budget.max, budget.label));
    }
    if !limits.is_empty() {
        let limits = format!("{} at a time", limits.join(", "));
        lines.push(("At most", Field::plain(limits)));
    }
    if rollout.approval {
        let gate = "each phase after the first waits for an operator";
        lines.push(("Approval", Field::plain(gate)));
    }
    let on_failure = state_word!(v1::OnFailure, rollout.on_failure, "ON_FAILURE_");
    let text = match on_failure.as_str() {
        "rollback" => "return what was deployed to what ran before",
        "" | "pause" => "pause until an operator decides",
        other => other,
    };
    lines.push(("On failure", Field::plain(text)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_says_all_that_was_asked_for() {
        let lines = |wire: v1::Deployment| {
            let lines = details(&wire);
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
