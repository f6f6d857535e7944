//! Each RPC, and who may call it.

use crate::store::Role;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Everybody. The answer tells nothing that is not public.
    Open,
    /// The schema: for viewers, or for everybody with `--open-reflection`.
    Reflection,
    /// Agents. The handler checks the proof that is in the messages or in the metadata.
    Agent,
    /// Operators who have at least this role.
    Operator(Role),
}

const VIEWER: Policy = Policy::Operator(Role::Viewer);
const OPERATOR: Policy = Policy::Operator(Role::Operator);
const ADMIN: Policy = Policy::Operator(Role::Admin);

const POLICIES: &[(&str, Policy)] = &[
    ("/kernex.v1.AgentService/Enroll", Policy::Agent),
    ("/kernex.v1.AgentService/DeviceSession", Policy::Agent),
    ("/kernex.v1.AgentService/DownloadBundle", Policy::Agent),
    ("/kernex.v1.DeviceService/ListDevices", VIEWER),
    ("/kernex.v1.DeviceService/GetDevice", VIEWER),
    ("/kernex.v1.DeviceService/UpdateDeviceLabels", OPERATOR),
    ("/kernex.v1.DeviceService/DeleteDevice", ADMIN),
    ("/kernex.v1.DeviceService/ListDeviceMetrics", VIEWER),
    ("/kernex.v1.DeviceService/ListDeviceHistory", VIEWER),
    ("/kernex.v1.DeviceService/ResolveDevice", ADMIN),
    ("/kernex.v1.DeviceService/WatchDevices", VIEWER),
    ("/kernex.v1.BundleService/UploadBundle", OPERATOR),
    ("/kernex.v1.BundleService/FetchBundle", VIEWER),
    ("/kernex.v1.BundleService/ListBundles", VIEWER),
    ("/kernex.v1.BundleService/GetBundle", VIEWER),
    ("/kernex.v1.BundleService/DeleteBundle", OPERATOR),
    ("/kernex.v1.DeploymentService/CreateDeployment", OPERATOR),
    ("/kernex.v1.DeploymentService/GetDeployment", VIEWER),
    ("/kernex.v1.DeploymentService/ListDeployments", VIEWER),
    ("/kernex.v1.DeploymentService/ListTargets", VIEWER),
    ("/kernex.v1.DeploymentService/GetTarget", VIEWER),
    ("/kernex.v1.DeploymentService/WatchDeployment", VIEWER),
    ("/kernex.v1.DeploymentService/CancelDeployment", OPERATOR),
    ("/kernex.v1.RolloutService/PauseDeployment", OPERATOR),
    ("/kernex.v1.RolloutService/ResumeDeployment", OPERATOR),
    ("/kernex.v1.RolloutService/PromoteDeployment", OPERATOR),
    ("/kernex.v1.RolloutService/RetryDeployment", OPERATOR),
    ("/kernex.v1.RolloutService/HaltDeployment", OPERATOR),
    ("/kernex.v1.DeploymentService/RollbackDeployment", OPERATOR),
    ("/kernex.v1.PlanService/PlanDeployment", VIEWER),
    ("/kernex.v1.ConfigurationService/SetConfiguration", OPERATOR),
    (
        "/kernex.v1.ConfigurationService/DeleteConfiguration",
        OPERATOR,
    ),
    ("/kernex.v1.ConfigurationService/ListConfigurations", VIEWER),
    (
        "/kernex.v1.ConfigurationService/GetDeviceConfiguration",
        VIEWER,
    ),
    ("/kernex.v1.EventService/WatchEvents", VIEWER),
    ("/kernex.v1.FleetService/GetFleetSummary", VIEWER),
    ("/kernex.v1.AccessService/CreateEnrollmentToken", OPERATOR),
    ("/kernex.v1.AccessService/ListEnrollmentTokens", VIEWER),
    ("/kernex.v1.AccessService/RevokeEnrollmentToken", OPERATOR),
    ("/kernex.v1.AccessService/CreateOperatorToken", ADMIN),
    ("/kernex.v1.AccessService/ListOperatorTokens", ADMIN),
    ("/kernex.v1.AccessService/RevokeOperatorToken", ADMIN),
    ("/kernex.v1.AccessService/WhoAmI", VIEWER),
    ("/kernex.v1.AuditService/ListAuditEntries", ADMIN),
    ("/grpc.health.v1.Health/Check", Policy::Open),
    ("/grpc.health.v1.Health/Watch", Policy::Open),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Policy::Reflection,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Policy::Reflection,
    ),
];

/// The operators' RPCs whose answers are streams.
const STREAMS: [&str; 5] = [
    "/kernex.v1.DeviceService/WatchDevices",
    "/kernex.v1.BundleService/FetchBundle",
    "/kernex.v1.DeploymentService/WatchDeployment",
    "/kernex.v1.RolloutService/HaltDeployment",
    "/kernex.v1.EventService/WatchEvents",
];

/// Whether an operator's call goes on after its answer began.
pub(super) fn answers_go_on(path: &str) -> bool {
    STREAMS.contains(&path)
}

#[must_use]
pub fn policy(path: &str) -> Option<Policy> {
    entry(path).map(|(_, policy)| *policy)
}

/// The name of all paths that are not ours.
const UNKNOWN: &str = "unknown";

/// A path as logs and traces may name it. A path that a caller invented is never repeated.
#[must_use]
pub fn known_path(path: &str) -> &'static str {
    entry(path).map_or(UNKNOWN, |(known, _)| known.trim_start_matches('/'))
}

/// All names that [`known_path`] gives.
pub fn known_paths() -> impl Iterator<Item = &'static str> {
    let ours = POLICIES
        .iter()
        .map(|(path, _)| path.trim_start_matches('/'));
    ours.chain([UNKNOWN])
}

fn entry(path: &str) -> Option<&'static (&'static str, Policy)> {
    POLICIES.iter().find(|(known, _)| *known == path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn methods(descriptors: &[u8]) -> Vec<String> {
        let files = prost_types::FileDescriptorSet::decode(descriptors).expect("decodes");
        let mut paths = Vec::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    paths.push(format!(
                        "/{}.{}/{}",
                        file.package(),
                        service.name(),
                        method.name()
                    ));
                }
            }
        }
        paths
    }

    #[test]
    fn every_rpc_has_a_policy_and_every_policy_an_rpc() {
        let mut served = methods(kernex_proto::DESCRIPTORS);
        assert!(!served.is_empty());
        assert!(
            served
                .iter()
                .all(|path| policy(path).is_some_and(|p| p != Policy::Open))
        );
        served.extend(methods(tonic_health::pb::FILE_DESCRIPTOR_SET));
        served.extend(methods(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET));
        served.extend(methods(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET));
        for path in &served {
            assert!(policy(path).is_some(), "{path} has no policy");
        }
        for (path, _) in POLICIES {
            assert!(
                served.iter().any(|known| known == path),
                "{path} does not exist"
            );
        }
    }

    #[test]
    fn every_stream_of_answers_to_operators_is_known() {
        let files =
            prost_types::FileDescriptorSet::decode(kernex_proto::DESCRIPTORS).expect("decodes");
        let mut streams = Vec::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    if method.server_streaming() && policy(&path) != Some(Policy::Agent) {
                        streams.push(path);
                    }
                }
            }
        }
        streams.sort();
        let mut known = STREAMS.map(str::to_owned).to_vec();
        known.sort();
        assert_eq!(known, streams);
    }

    #[test]
    fn a_path_that_a_caller_made_up_has_no_name() {
        assert_eq!(
            known_path("/kernex.v1.AgentService/Enroll"),
            "kernex.v1.AgentService/Enroll"
        );
        for made_up in ["/kernex.v1.AgentService/Enrol", "/", "", "/x/y"] {
            assert_eq!(known_path(made_up), "unknown", "{made_up}");
        }
    }

    #[test]
    fn the_comments_of_the_contract_name_the_roles_that_are_enforced() {
        let files =
            prost_types::FileDescriptorSet::decode(kernex_proto::DESCRIPTORS).expect("decodes");
        for file in files.file.iter().filter(|f| f.package() == "kernex.v1") {
            for location in file.source_code_info.iter().flat_map(|i| &i.location) {
                // Path of a method: field 6 (service), its index, field 2 (method), its index.
                let [6, service, 2, method] = location.path[..] else {
                    continue;
                };
                let service = &file.service[service as usize];
                let path = format!(
                    "/kernex.v1.{}/{}",
                    service.name(),
                    service.method[method as usize].name()
                );
                let Some(Policy::Operator(role)) = policy(&path) else {
                    continue;
                };
                let said = format!("Role: {role}.");
                assert!(
                    location.leading_comments().contains(&said),
                    "{path} should say `{said}`"
                );
            }
        }
    }
}
