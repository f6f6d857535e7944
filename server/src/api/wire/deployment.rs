//! Deployments: the order that creates one, and the row that answers.

use std::time::Duration;

use kernex_proto::v1;
use tonic::Status;

use super::{
    fields::{id, seconds},
    rollout::rollout,
    schedule::terms,
    selector::selector,
};
use crate::{
    clock::Timestamp,
    error::invalid,
    store::{Deployment, NewDeployment},
};

/// How long an attempt may wait for its device, unless the order says.
pub(in crate::api) const DELIVERY: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long an attempt may take, unless the order says.
pub(in crate::api) const EXECUTION: Duration = Duration::from_secs(3600);

/// The order of a request, checked.
pub(in crate::api) fn order(
    request: v1::CreateDeploymentRequest,
    traceparent: String,
    penalty_after: u32,
) -> Result<NewDeployment, Status> {
    if request.bundle.is_empty() {
        return Err(invalid(
            "bundle",
            "name it as name:version or by its digest",
        ));
    }
    let device_ids = request
        .device_ids
        .iter()
        .map(|text| id("device_ids", text))
        .collect::<Result<_, _>>()?;
    let selector = selector("selector", &request.selector)?;
    if selector.is_none() && request.device_ids.is_empty() && request.device_names.is_empty() {
        return Err(invalid(
            "selector",
            "name the devices by id, name or selector; `*` means every device",
        ));
    }
    Ok(NewDeployment {
        terms: terms(&request, selector.as_ref(), penalty_after)?,
        bundle: request.bundle,
        device_ids,
        device_names: request.device_names,
        selector,
        delivery: seconds(
            "delivery_timeout_seconds",
            request.delivery_timeout_seconds,
            DELIVERY,
        )?,
        execution: seconds(
            "execution_timeout_seconds",
            request.execution_timeout_seconds,
            EXECUTION,
        )?,
        traceparent,
        rollout: request.rollout.map(rollout).transpose()?,
        message: note(request.message)?,
    })
}

/// Longest note to an order, in characters.
const MAX_NOTE: usize = 1000;

/// The message of an order, checked.
pub(in crate::api) fn note(text: String) -> Result<String, Status> {
    let readable = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().count() <= MAX_NOTE && text.chars().all(readable) {
        return Ok(text.trim().to_owned());
    }
    Err(invalid(
        "message",
        format!("it has to be at most {MAX_NOTE} printable characters"),
    ))
}

impl From<Deployment> for v1::Deployment {
    fn from(deployment: Deployment) -> Self {
        let result = deployment.result.map(v1::DeploymentResult::from);
        let phases = deployment.phases.into_iter().map(v1::PhaseStatus::from);
        let order = deployment.order;
        let token = order.token.map(|id| id.to_string());
        Self {
            selector: order.selector,
            named_devices: order.named_devices,
            message: order.message,
            created_from: order.from,
            token_id: token.unwrap_or_default(),
            delivery_timeout_seconds: order.delivery.as_secs(),
            execution_timeout_seconds: order.execution.as_secs(),
            id: deployment.id.to_string(),
            bundle: deployment.bundle,
            digest: deployment
                .digest
                .map(|digest| digest.to_string())
                .unwrap_or_default(),
            state: v1::DeploymentState::from(deployment.state).into(),
            result: result.unwrap_or_default().into(),
            paused_reason: deployment.paused_reason,
            counts: Some(deployment.counts.into()),
            name: deployment.name,
            created_by: deployment.created_by,
            created_at: Some(deployment.created_at.to_proto()),
            finished_at: deployment.finished_at.map(Timestamp::to_proto),
            revision: deployment.revision,
            schedule: deployment.schedule.map(v1::Schedule::from),
            opens_at: deployment.opens_at.map(Timestamp::to_proto),
            dynamic_selector: deployment
                .dynamic
                .map(|selector| selector.to_string())
                .unwrap_or_default(),
            rollout: deployment.rollout.map(v1::Rollout::from),
            phases: phases.collect(),
            phase: deployment.phase,
            rolls_back: deployment
                .rolls_back
                .map(|id| id.to_string())
                .unwrap_or_default(),
            ended_reason: deployment.ended_reason,
            rolled_back_by: deployment
                .rolled_back_by
                .map(|id| id.to_string())
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> v1::CreateDeploymentRequest {
        v1::CreateDeploymentRequest {
            bundle: "hello:1.0".into(),
            selector: "*".into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_order_without_deadlines_gets_the_defaults() {
        let new = order(request(), String::new(), 3).unwrap();
        assert_eq!((new.delivery, new.execution), (DELIVERY, EXECUTION));
        assert!(new.selector.is_some_and(|selector| selector.is_all()));
    }

    #[test]
    fn a_note_is_short_and_readable() {
        let noted = |text: &str| {
            let message = text.to_owned();
            order(
                v1::CreateDeploymentRequest {
                    message,
                    ..request()
                },
                String::new(),
                3,
            )
        };
        assert_eq!(
            noted(" the fix\nfor 17 ").unwrap().message,
            "the fix\nfor 17"
        );
        assert!(noted(&"x".repeat(1000)).is_ok());
        for bad in ["\u{1b}[31m", &"x".repeat(1001)] {
            assert!(noted(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_device_is_never_meant_by_leaving_all_fields_empty() {
        let nobody = v1::CreateDeploymentRequest {
            selector: " ".into(),
            ..request()
        };
        assert!(order(nobody, String::new(), 3).is_err());
        let one = v1::CreateDeploymentRequest {
            selector: String::new(),
            device_names: vec!["edge-1".into()],
            ..request()
        };
        assert!(order(one, String::new(), 3).unwrap().selector.is_none());
    }

    #[test]
    fn fields_that_make_no_sense_are_named() {
        let table: [(&str, v1::CreateDeploymentRequest); 4] = [
            (
                "bundle",
                v1::CreateDeploymentRequest {
                    bundle: String::new(),
                    ..request()
                },
            ),
            (
                "device_ids",
                v1::CreateDeploymentRequest {
                    device_ids: vec!["x".into()],
                    ..request()
                },
            ),
            (
                "selector",
                v1::CreateDeploymentRequest {
                    selector: "a=b,".into(),
                    ..request()
                },
            ),
            (
                "execution_timeout_seconds",
                v1::CreateDeploymentRequest {
                    execution_timeout_seconds: u64::MAX,
                    ..request()
                },
            ),
        ];
        for (field, request) in table {
            let status = order(request, String::new(), 3).unwrap_err();
            assert!(status.message().starts_with(field), "{field}: {status}");
        }
    }
}
