//! Between the wire and the house: what callers send is checked once, what the store answers
//! becomes messages.

use kernex_proto::v1;
use prost::Message;
use tonic::Status;

use crate::{
    clock::Timestamp,
    domain::selector::Selector,
    error::mistake,
    store::{
        BundleRow, Deployment, Device, EnrollmentTokenRow, EventRow, HistoryEntry, MetricSample,
        Page, Paged, RollbackTarget, StoreError, Target,
    },
};

/// Most bytes of a message with many items. Clients refuse more than 4 MiB unless told otherwise,
/// and one item can have a manifest of 1 MiB in it.
const MESSAGE_BUDGET: usize = 2 * 1024 * 1024;

/// A page as messages, shortened where it would not fit into one answer; the token goes on from
/// there.
pub(super) async fn fitting_page<T, M, F, A>(
    page: Page,
    list: F,
) -> Result<(Vec<M>, String), Status>
where
    M: Message + From<T>,
    F: Fn(Page) -> A,
    A: Future<Output = Result<Paged<T>, StoreError>>,
{
    let size = page.size;
    let token = page.token.clone();
    let paged = list(page).await?;
    let (items, next) = messages(paged);
    let fit = fitting(&items);
    if fit == items.len() {
        return Ok((items, next));
    }
    let size = size.min(u32::try_from(fit).unwrap_or(size));
    Ok(messages(list(Page { size, token }).await?))
}

fn messages<T, M: From<T>>(paged: Paged<T>) -> (Vec<M>, String) {
    let items = paged.items.into_iter().map(M::from).collect();
    (items, paged.next.unwrap_or_default())
}

/// How many of `items` fit into one message; at least one, unless there is none.
pub(super) fn fitting<M: Message>(items: &[M]) -> usize {
    let mut bytes = 0;
    let over = items.iter().position(|item| {
        bytes += item.encoded_len();
        bytes > MESSAGE_BUDGET
    });
    over.map_or(items.len(), |index| index.max(1))
}

/// The selector a caller wrote; `None` when the field is empty.
pub(super) fn selector(text: &str) -> Result<Option<Selector>, Status> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let selector = Selector::parse(text).map_err(|wrong| mistake("selector", &wrong))?;
    Ok(Some(selector))
}

impl From<Device> for v1::Device {
    fn from(device: Device) -> Self {
        // A device that never had a session may have said nothing about itself.
        let known = device.epoch > 0 || device.inventory != v1::Inventory::default();
        Self {
            id: device.id.to_string(),
            name: device.name,
            labels: device.labels.into_iter().collect(),
            status: v1::DeviceStatus::from(device.status).into(),
            last_seen: device.last_seen.map(Timestamp::to_proto),
            agent_version: device.agent_version,
            inventory: known.then_some(device.inventory),
            vital_signs: device.vital_signs,
            releases: device.releases,
            drifts: device.drifts,
            leftovers: device.leftovers,
            disk_fault: device
                .disk_fault
                .map_or(v1::DiskFault::Unspecified, v1::DiskFault::from)
                .into(),
            created_at: Some(device.created_at.to_proto()),
            epoch: device.epoch,
            key_fingerprint: device.key.to_string(),
            revision: device.revision,
            protocol_revision: device.protocol_revision,
            conflict: device
                .conflict
                .map_or(v1::DeviceConflict::Unspecified, Into::into)
                .into(),
        }
    }
}

impl From<MetricSample> for v1::MetricSample {
    fn from(sample: MetricSample) -> Self {
        Self {
            at: Some(sample.at.to_proto()),
            vital_signs: Some(sample.vital_signs),
        }
    }
}

impl From<HistoryEntry> for v1::DeviceHistoryEntry {
    fn from(entry: HistoryEntry) -> Self {
        Self {
            deployment_id: entry.deployment.to_string(),
            bundle: entry.bundle,
            digest: entry.digest.to_string(),
            attempt: entry.attempt,
            state: entry.state.to_string(),
            reason: entry
                .reason
                .map(|reason| reason.to_string())
                .unwrap_or_default(),
            message: entry.message,
            created_at: Some(entry.created_at.to_proto()),
            closed_at: entry.closed_at.map(Timestamp::to_proto),
            active_version: entry.active_version,
            active_digest: entry.active_digest,
            rolls_back: entry
                .rolls_back
                .map(|id| id.to_string())
                .unwrap_or_default(),
        }
    }
}

impl From<BundleRow> for v1::Bundle {
    fn from(bundle: BundleRow) -> Self {
        Self {
            name: bundle.name,
            version: bundle.version,
            digest: bundle.digest.to_string(),
            size_bytes: bundle.size,
            format: bundle.format.into(),
            manifest_json: bundle.manifest_json,
            created_at: Some(bundle.created_at.to_proto()),
        }
    }
}

impl From<Deployment> for v1::Deployment {
    fn from(deployment: Deployment) -> Self {
        let result = deployment.result.map(v1::DeploymentResult::from);
        let phases = deployment.phases.into_iter().map(v1::PhaseStatus::from);
        Self {
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
        }
    }
}

impl From<Target> for v1::Target {
    fn from(target: Target) -> Self {
        let reason = target.reason.map(v1::FailureReason::from);
        Self {
            id: target.id.to_string(),
            deployment_id: target.deployment.to_string(),
            device_id: target.device.to_string(),
            device_name: target.device_name,
            bundle: target.bundle,
            attempt: target.attempt,
            state: v1::AttemptState::from(target.state).into(),
            progress: target.progress.map(|progress| v1::Progress {
                step: v1::Step::from(progress.step).into(),
                bytes_done: progress.bytes_done,
                bytes_total: progress.bytes_total,
                stopped: progress.stopped,
            }),
            reason: reason.unwrap_or_default().into(),
            message: target.message,
            exit_code: target.exit_code,
            output_tail: target.output_tail,
            late_outcome: target.late_outcome,
            stop_requested: target.stop_requested,
            updated_at: Some(target.updated_at.to_proto()),
            phase: target.phase,
            active_digest: target.active_digest,
            active_version: target.active_version,
            opens_at: target.opens_at.map(Timestamp::to_proto),
        }
    }
}

impl From<RollbackTarget> for v1::RollbackStep {
    fn from(step: RollbackTarget) -> Self {
        Self {
            device_id: step.device.to_string(),
            device_name: step.device_name,
            verdict: v1::RollbackVerdict::from(step.verdict).into(),
            message: match &step.bundle {
                Some(bundle) => format!("goes back to {bundle}"),
                None => step.verdict.words().to_owned(),
            },
            bundle: step.bundle.unwrap_or_default(),
        }
    }
}

impl From<EventRow> for v1::Event {
    fn from(event: EventRow) -> Self {
        let device = event.device.map(|device| device.to_string());
        let deployment = event.deployment.map(|deployment| deployment.to_string());
        Self {
            cursor: event.cursor,
            at: Some(event.at.to_proto()),
            kind: event.kind,
            device_id: device.unwrap_or_default(),
            deployment_id: deployment.unwrap_or_default(),
            detail_json: event.detail_json,
        }
    }
}

impl From<EnrollmentTokenRow> for v1::EnrollmentToken {
    fn from(token: EnrollmentTokenRow) -> Self {
        Self {
            id: token.id.to_string(),
            uses_left: token.uses_left,
            uses_total: token.uses_total,
            expires_at: Some(token.expires_at.to_proto()),
            labels: token.labels.into_iter().collect(),
            replaces_device: token.replaces_device.unwrap_or_default(),
            created_by: token.created_by,
            created_at: Some(token.created_at.to_proto()),
            revoked: token.revoked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_holds_what_fits_and_at_least_one_item() {
        let item = |bytes: usize| v1::Target {
            output_tail: "x".repeat(bytes),
            ..Default::default()
        };
        assert_eq!(fitting::<v1::Target>(&[]), 0);
        assert_eq!(fitting(&[item(10), item(10)]), 2);
        assert_eq!(fitting(&[item(MESSAGE_BUDGET), item(10)]), 1);
        assert_eq!(fitting(&[item(10), item(MESSAGE_BUDGET)]), 1);
    }
}
