//! What kind of call each method is, from the descriptors: a new one is bounded and fed without a
//! word about it here.

use std::{collections::HashMap, sync::Arc};

use prost::Message as _;
use prost_types::FileDescriptorSet;

use super::slots::SlotKind;

/// The one stream of ours that is not fed by a [`Feeder`](super::Feeder). A session's task writes
/// into a queue of its own and is closed when that overflows; a second task and queue for each of
/// ten thousand sessions would cost too much memory.
const SESSION: &str = "/kernex.v1.AgentService/DeviceSession";
/// The one stream that gives an order. It has slots of its own, so that a token whose watches use
/// all its slots can still halt.
const HALT: &str = "/kernex.v1.RolloutService/HaltDeployment";
/// The one call that asks a whole fleet while it waits.
const PLAN: &str = "/kernex.v1.PlanService/PlanDeployment";
/// Packages whose handlers are ours.
const OURS: &str = "kernex.";

/// What a call is, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Single,
    /// One answer, and a place until it is taken.
    Bounded(SlotKind),
    /// A stream of answers that its handler has fed.
    Stream(SlotKind),
    /// A stream of a library's, whose handlers hold nothing that others need.
    Foreign,
    Session,
}

/// Every method that is served.
#[derive(Debug)]
pub(super) struct Methods(HashMap<Arc<str>, Shape>);

impl Methods {
    /// Of these encoded descriptor sets.
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

    /// The method of a path, if it is one.
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
