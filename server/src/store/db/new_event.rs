//! Events that a transaction writes at its commit. Watchers see them then.

use futures::future::BoxFuture;
use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::DatabaseTransaction;
use serde_json::Value;

use crate::{clock::Timestamp, store::db::error::Result};

/// What an event is about. Watchers of a device or of a deployment see the events about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Something else: a bundle, a configuration, the server itself.
    Nothing,
    Device(DeviceId),
    Deployment(DeploymentId),
    /// A device as part of a deployment.
    Both(DeviceId, DeploymentId),
}

impl Subject {
    pub(crate) const fn device(self) -> Option<DeviceId> {
        match self {
            Self::Device(device) | Self::Both(device, _) => Some(device),
            Self::Nothing | Self::Deployment(_) => None,
        }
    }

    pub(crate) const fn deployment(self) -> Option<DeploymentId> {
        match self {
            Self::Deployment(deployment) | Self::Both(_, deployment) => Some(deployment),
            Self::Nothing | Self::Device(_) => None,
        }
    }
}

/// Something that happened in a transaction.
#[derive(Debug)]
pub(crate) struct NewEvent {
    /// Its kind, such as `device.online`.
    pub(crate) kind: String,
    pub(crate) subject: Subject,
    /// Further fields, as a JSON object.
    pub(crate) detail: Value,
    /// Trace of the deployment's order, if it has one. What is logged about the event names it.
    pub(crate) traceparent: String,
}

/// Writes the events of a transaction as its last statements. The table of events is not known on
/// this floor.
pub(crate) type LogEvents =
    for<'a> fn(&'a DatabaseTransaction, Timestamp, &'a [NewEvent]) -> BoxFuture<'a, Result<()>>;
