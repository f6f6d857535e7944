//! Commands in the words of the contract: made from rows, or from an order that was just given.

use std::time::Duration;

use kernex_proto::{
    ids::{AttemptId, DeploymentId, DeviceId, TargetId},
    v1,
};
use sea_orm::DbErr;

use crate::{
    clock::Timestamp,
    domain::attempt::State,
    store::{
        db::{
            error::Result,
            values::{parse_name, unsigned},
        },
        entity::{
            bundle, deployment, signature,
            stored::{BundleId, Stored},
        },
        read::{bundles::parse_format, due_rows::DueRow},
    },
};

/// A command to push into a session.
#[derive(Debug, Clone, PartialEq)]
pub struct DueCommand {
    pub device: DeviceId,
    pub attempt: AttemptId,
    /// Which run of the attempt, from 1.
    pub run: u32,
    pub kind: DueKind,
    /// Time left for delivery and execution. The agent counts it on its boot clock.
    pub remaining: Duration,
    /// How long it has been due.
    pub waited: Duration,
    /// The [moment](crate::delivery::in_flight::InFlight::moment) at which its row was read.
    pub read: u64,
    /// W3C trace context of the order.
    pub traceparent: String,
}

/// What a due command says.
#[derive(Debug, Clone, PartialEq)]
pub enum DueKind {
    /// Put a bundle on the device, in the words of the contract.
    Deploy(Box<v1::Deploy>),
    /// Stop the attempt, known or not.
    Stop(v1::Stop),
}

/// The commands of an order whose targets are all open, for devices without anything before it.
/// They equal what [`Store::due_commands`](crate::store::Store::due_commands) would read, without
/// reading.
pub(crate) fn of_open_targets(
    order: &deployment::Model,
    bundle: &bundle::Model,
    signatures: &[signature::Model],
    targets: impl Iterator<Item = (DeviceId, TargetId)>,
    read: u64,
) -> Result<Vec<DueCommand>> {
    let content = Content {
        name: &bundle.name,
        version: &bundle.version,
        digest: &bundle.digest,
        size: bundle.size,
        format: &bundle.format,
    };
    let execution = micros(order.execution_us);
    let mut deploy = content.deploy(order.id.0, execution, false)?;
    deploy.signatures = signatures.iter().map(self::signature).collect();
    let command = |(device, target)| DueCommand {
        device,
        attempt: AttemptId { target, number: 1 },
        run: 1,
        kind: DueKind::Deploy(Box::new(deploy.clone())),
        remaining: micros(order.delivery_us).saturating_add(execution),
        waited: Duration::ZERO,
        traceparent: order.traceparent.clone(),
        read,
    };
    Ok(targets.map(command).collect())
}

pub(crate) fn stop(row: &DueRow) -> (Option<Stored<BundleId>>, DueCommand) {
    let command = DueCommand {
        device: row.device_id.0,
        attempt: attempt_id(row),
        run: run(row),
        kind: DueKind::Stop(v1::Stop {
            going_back: row.stop_going_back,
            overdue: row.state == State::Expired.as_str(),
        }),
        remaining: Duration::ZERO,
        waited: Duration::ZERO,
        traceparent: row.traceparent.clone(),
        read: 0,
    };
    (None, command)
}

/// A deploy, with its bundle, whose signatures are still to be added.
pub(crate) fn deploy(
    row: &DueRow,
    now: Timestamp,
) -> Result<Option<(Option<Stored<BundleId>>, DueCommand)>> {
    let (Some(size), Some(format)) = (row.size, row.format.as_deref()) else {
        // A bundle with an open target cannot be deleted here, so somebody changed the database by
        // hand.
        tracing::error!(deployment = %row.deployment_id, digest = row.digest, "the bundle of an open target is missing");
        return Ok(None);
    };
    let content = Content {
        name: &row.bundle_name,
        version: &row.bundle_version,
        digest: &row.digest,
        size,
        format,
    };
    let execution = micros(row.execution_us);
    let deploy = content.deploy(row.deployment_id.0, execution, row.rolls_back.is_some())?;
    let command = DueCommand {
        device: row.device_id.0,
        attempt: attempt_id(row),
        run: run(row),
        kind: DueKind::Deploy(Box::new(deploy)),
        remaining: Timestamp(row.delivery_deadline)
            .since(now)
            .saturating_add(execution),
        // The last change of the row is the commit that opened it, unless it was pushed in an
        // earlier session.
        waited: now.since(Timestamp(row.updated_at)),
        traceparent: row.traceparent.clone(),
        read: 0,
    };
    Ok(Some((row.bundle_id, command)))
}

pub(crate) fn signature(row: &signature::Model) -> v1::BundleSignature {
    v1::BundleSignature {
        key_id: row.key_id.clone(),
        algorithm: row.algorithm.clone(),
        signature: row.signature.clone().into(),
    }
}

/// What a device is to fetch.
struct Content<'a> {
    name: &'a str,
    version: &'a str,
    digest: &'a str,
    size: i64,
    format: &'a str,
}

impl Content<'_> {
    fn deploy(
        &self,
        deployment: DeploymentId,
        execution: Duration,
        go_back: bool,
    ) -> Result<v1::Deploy, DbErr> {
        Ok(v1::Deploy {
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            digest: self.digest.to_owned(),
            size_bytes: unsigned(self.size),
            format: parse_name("format", self.format, parse_format)?.into(),
            deployment_id: deployment.to_string(),
            signatures: Vec::new(),
            execution_ms: u64::try_from(execution.as_millis()).unwrap_or(u64::MAX),
            go_back,
            // Settings of the server, known to the dispatcher.
            limits: None,
        })
    }
}

fn micros(value: i64) -> Duration {
    Duration::from_micros(unsigned(value))
}

fn attempt_id(row: &DueRow) -> AttemptId {
    AttemptId {
        target: row.target_id.0,
        number: u32::try_from(row.number).unwrap_or(0),
    }
}

fn run(row: &DueRow) -> u32 {
    row.run.and_then(|run| u32::try_from(run).ok()).unwrap_or(1)
}
