//! The fleet in a few numbers.

use kernex_proto::v1;

use crate::store::{DeviceCounts, FleetSummary};

impl From<DeviceCounts> for v1::DeviceCounts {
    fn from(counts: DeviceCounts) -> Self {
        Self {
            total: counts.total,
            online: counts.online,
            offline: counts.offline,
            conflicted: counts.conflicted,
            drifted: counts.drifted,
            disk_faults: counts.disk_faults,
            never_seen: counts.never_seen,
        }
    }
}

impl From<FleetSummary> for v1::GetFleetSummaryResponse {
    fn from(fleet: FleetSummary) -> Self {
        let agent_versions = fleet.agent_versions.into_iter();
        let releases = fleet.releases.into_iter();
        let open = fleet.open_deployments.into_iter();
        let failed = fleet.failed_deployments.into_iter();
        Self {
            at: Some(fleet.at.to_proto()),
            devices: Some(fleet.devices.into()),
            agent_versions: agent_versions
                .map(|count| v1::AgentVersionCount {
                    agent_version: count.agent_version,
                    devices: count.devices,
                })
                .collect(),
            agent_versions_left: fleet.agent_versions_left,
            releases: releases
                .map(|count| v1::ReleaseCount {
                    name: count.name,
                    version: count.version,
                    devices: count.devices,
                })
                .collect(),
            releases_left: fleet.releases_left,
            open_deployments: open.map(v1::Deployment::from).collect(),
            open_deployments_left: fleet.open_deployments_left,
            failed_deployments: failed.map(v1::Deployment::from).collect(),
        }
    }
}
