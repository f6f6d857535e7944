//! Logs and counts each event of a commit, here and nowhere else. So a change is told alike,
//! whether an operator, a device or time brought it about. Within a call the log line names its
//! caller as well.

use serde_json::Value;
use tracing::Span;

use crate::{
    log_queue::LogQueue,
    metrics::Transactions,
    store::db::new_event::{NewEvent, Subject},
};

/// Logs and counts the events of a transaction that is committed.
pub(crate) fn tell(events: Vec<NewEvent>, figures: &Transactions, log: &LogQueue) {
    for event in events {
        match event.kind.split_once('.') {
            // The recorder logs outcomes, because it knows their session and trace.
            Some(("attempt", state)) => count_attempt(state, &event.detail, figures),
            Some(("deployment", what)) => {
                if what == "finished" {
                    let result = text(&event.detail, "result").unwrap_or_default();
                    figures.deployments_finished.inc([result]);
                }
                let what = what.replace('_', " ");
                log.add(Span::current(), move || log_deployment(&what, &event));
            }
            _ => {}
        }
    }
}

fn count_attempt(state: &str, detail: &Value, figures: &Transactions) {
    let reason = text(detail, "reason").unwrap_or_default();
    figures.attempts_ended.inc([state, reason]);
}

fn log_deployment(what: &str, event: &NewEvent) {
    let Subject::Deployment(deployment) = event.subject else {
        return;
    };
    let detail = |name| text(&event.detail, name);
    let number = |name| event.detail.get(name).and_then(Value::as_u64);
    let trace_id = event.traceparent.split('-').nth(1);
    tracing::info!(
        %deployment,
        bundle = detail("bundle"),
        result = detail("result"),
        phase = number("phase"),
        devices = number("devices"),
        rollback = detail("rollback"),
        by = detail("by"),
        why = detail("reason").or_else(|| detail("why")),
        trace_id,
        "deployment {what}"
    );
}

fn text<'a>(detail: &'a Value, name: &str) -> Option<&'a str> {
    detail.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use kernex_proto::ids::{DeploymentId, DeviceId};
    use serde_json::json;

    use super::*;

    #[test]
    fn what_ended_is_counted_by_result_and_reason_and_made_up_words_are_not() {
        let figures = Transactions::default();
        let (device, deployment) = (DeviceId::generate(), DeploymentId::generate());
        let of = |kind: &str, detail| NewEvent {
            kind: kind.to_owned(),
            subject: Subject::Both(device, deployment),
            detail,
            traceparent: String::new(),
        };
        let events = vec![
            of("attempt.failed", json!({ "reason": "script_failed" })),
            of("attempt.failed", json!({ "reason": "script_failed" })),
            of("attempt.succeeded", json!({})),
            of("attempt.accepted", json!({})),
            of("attempt.late", json!({ "reason": "made up" })),
            of("deployment.finished", json!({ "result": "failed" })),
        ];
        tell(events, &figures, &LogQueue::default());
        let ended = |result, reason| figures.attempts_ended.get([result, reason]);
        assert_eq!(ended("failed", "script_failed"), Some(2));
        assert_eq!(ended("succeeded", ""), Some(1));
        assert_eq!(ended("accepted", ""), None);
        assert_eq!(ended("late", "made up"), None);
        assert_eq!(figures.deployments_finished.get(["failed"]), Some(1));
    }
}
