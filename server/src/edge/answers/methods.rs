//! What kind of call each method is. The descriptors say so, and a new method is bounded and fed
//! without a change here.

use std::{collections::HashMap, sync::Arc};

use prost::Message as _;
use prost_types::FileDescriptorSet;

use super::slots::SlotKind;

/// The one stream of ours without a [`Feeder`](super::Feeder). The task of a session writes into a
/// queue of its own, and the session is closed when that overflows. A second task and queue for
/// each of ten thousand sessions would cost too much memory.
const SESSION: &str = "/kernex.v1.AgentService/DeviceSession";
/// The one stream that gives an order. It has slots of its own, so that a token whose watches use
/// all its slots can still halt.
const HALT: &str = "/kernex.v1.RolloutService/HaltDeployment";
/// The one call that waits for a whole fleet to answer.
const PLAN: &str = "/kernex.v1.PlanService/PlanDeployment";
/// Package of the services whose handlers are ours.
const OURS: &str = "kernex.";

/// What kind of call a method is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Single,
    /// One answer. Its slot is taken until the peer has the answer.
    Bounded(SlotKind),
    /// A stream of answers that its handler made with `fed`.
    Stream(SlotKind),
    /// A stream of a library. Its handlers hold nothing that others need.
    Foreign,
    Session,
}

#[derive(Debug)]
pub(super) struct Methods(HashMap<Arc<str>, Shape>);

impl Methods {
    /// The methods of these encoded descriptor sets.
    pub(super) fn from_descriptors(descriptors: &[&[u8]]) -> Result<Self, prost::DecodeError> {
        let mut methods = HashMap::new();
        for set in descriptors {
            for file in FileDescriptorSet::decode(*set)?.file {
                for service in &file.service {
                    for method in &service.method {
                        let path =
                            format!("/{}.{}/{}", file.package(), service.name(), method.name());
                        let streams = (method.client_streaming(), method.server_streaming());
                        let shape = shape(&path, file.package(), streams);
                        methods.insert(path.into(), shape);
                    }
                }
            }
        }
        Ok(Self(methods))
    }

    /// The method that a path names; `None` when there is no such method.
    pub(super) fn find(&self, path: &str) -> Option<(&Arc<str>, Shape)> {
        let (path, shape) = self.0.get_key_value(path)?;
        Some((path, *shape))
    }
}

fn shape(path: &str, package: &str, streams: (bool, bool)) -> Shape {
    match streams {
        _ if path == SESSION => Shape::Session,
        _ if path == PLAN => Shape::Bounded(SlotKind::Plan),
        _ if path == HALT => Shape::Stream(SlotKind::Halt),
        (_, true) if package.starts_with(OURS) => Shape::Stream(SlotKind::Stream),
        (_, true) => Shape::Foreign,
        (true, false) => Shape::Bounded(SlotKind::Upload),
        (false, false) => Shape::Single,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_is_what_its_descriptor_says() {
        let methods = Methods::from_descriptors(super::super::DESCRIPTORS).expect("they decode");
        let table = [
            ("/kernex.v1.DeviceService/GetDevice", Shape::Single),
            (
                "/kernex.v1.DeviceService/WatchDevices",
                Shape::Stream(SlotKind::Stream),
            ),
            (
                "/kernex.v1.AgentService/DownloadBundle",
                Shape::Stream(SlotKind::Stream),
            ),
            (HALT, Shape::Stream(SlotKind::Halt)),
            (SESSION, Shape::Session),
            (
                "/kernex.v1.BundleService/UploadBundle",
                Shape::Bounded(SlotKind::Upload),
            ),
            (PLAN, Shape::Bounded(SlotKind::Plan)),
            ("/grpc.health.v1.Health/Check", Shape::Single),
            ("/grpc.health.v1.Health/Watch", Shape::Foreign),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                Shape::Foreign,
            ),
        ];
        for (path, expected) in table {
            let found = methods.find(path).map(|(_, shape)| shape);
            assert_eq!(found, Some(expected), "{path}");
        }
        assert!(methods.find("/kernex.v1.DeviceService/NoSuch").is_none());
    }
}
