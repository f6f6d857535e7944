//! The fleet in a few numbers. Each figure is one statement, which returns at most a row for each
//! version or release.

use std::collections::BTreeMap;

use sea_orm::{ColumnTrait, FromQueryResult, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    clock::Timestamp,
    domain::{
        device::DeviceStatus,
        rollout::{DeploymentResult, DeploymentState},
    },
    store::{
        db::{error::Result, values::unsigned},
        entity::{deployment, device, device_drift, device_release},
        read::{
            deployment_filter::DeploymentFilter, deployments::Deployment,
            device_filter::DeviceFilter, scope::View,
        },
    },
};

#[derive(Debug, Clone, PartialEq)]
pub struct FleetSummary {
    pub at: Timestamp,
    pub devices: DeviceCounts,
    /// Most devices first.
    pub agent_versions: Vec<AgentVersionCount>,
    /// How many versions there are beyond those.
    pub agent_versions_left: u64,
    /// Most devices first.
    pub releases: Vec<ReleaseCount>,
    /// How many releases there are beyond those.
    pub releases_left: u64,
    /// Newest first.
    pub open_deployments: Vec<Deployment>,
    /// How many are open beyond those.
    pub open_deployments_left: u64,
    /// Those that failed last, newest first.
    pub failed_deployments: Vec<Deployment>,
}

/// Devices by their status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    pub total: u64,
    pub online: u64,
    pub offline: u64,
    pub conflicted: u64,
    /// Run another release than their last outcome said, whatever their status is.
    pub drifted: u64,
    /// Get no commands because of a disk fault, whatever their status is.
    pub disk_faults: u64,
    /// Never had a session.
    pub never_seen: u64,
}

/// Devices whose agent has one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentVersionCount {
    /// Empty before the first session.
    pub agent_version: String,
    pub devices: u64,
}

/// Devices that run one bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseCount {
    pub name: String,
    pub version: String,
    pub devices: u64,
}

impl View {
    /// Counts the fleet; at most `limit` of each list.
    pub async fn fleet_summary(&self, limit: u32) -> Result<FleetSummary> {
        let limit = limit.max(1);
        let (agent_versions, agent_versions_left) = shortest(self.agent_versions().await?, limit);
        let (releases, releases_left) = shortest(self.releases().await?, limit);
        let open = DeploymentFilter {
            states: DeploymentState::ALL
                .iter()
                .copied()
                .filter(|state| *state != DeploymentState::Finished)
                .collect(),
            ..DeploymentFilter::default()
        };
        let failed = DeploymentFilter {
            results: vec![DeploymentResult::Failed],
            ..DeploymentFilter::default()
        };
        let open_deployments = self.newest_deployments(&open, limit).await?;
        let all_open = self.count_deployments(&open).await?;
        Ok(FleetSummary {
            at: self.store.now(),
            devices: self.device_counts().await?,
            agent_versions,
            agent_versions_left,
            releases,
            releases_left,
            open_deployments_left: all_open.saturating_sub(open_deployments.len() as u64),
            open_deployments,
            failed_deployments: self.newest_deployments(&failed, limit).await?,
        })
    }

    async fn device_counts(&self) -> Result<DeviceCounts> {
        let db = self.reader();
        let with = |status| DeviceFilter {
            statuses: vec![status],
            ..DeviceFilter::default()
        };
        let devices = || self.rows::<device::Entity>();
        let faults = devices().filter(device::Column::DiskFault.is_not_null());
        let never = devices().filter(device::Column::LastSeen.is_null());
        Ok(DeviceCounts {
            total: devices().count(db).await?,
            online: self.count_devices(&with(DeviceStatus::Online)).await?,
            offline: self.count_devices(&with(DeviceStatus::Offline)).await?,
            conflicted: self.count_devices(&with(DeviceStatus::Conflicted)).await?,
            drifted: self.drifted_devices().await? as u64,
            disk_faults: faults.count(db).await?,
            never_seen: never.count(db).await?,
        })
    }

    async fn newest_deployments(
        &self,
        filter: &DeploymentFilter,
        limit: u32,
    ) -> Result<Vec<Deployment>> {
        let newest = filter
            .found(self.scope)
            .order_by_desc(deployment::Column::Id)
            .limit(u64::from(limit))
            .all(self.reader())
            .await?;
        self.whole_deployments(newest).await
    }

    /// Devices by the version of their agents, most first.
    async fn agent_versions(&self) -> Result<Vec<AgentVersionCount>> {
        #[derive(FromQueryResult)]
        struct Row {
            agent_version: String,
            devices: i64,
        }
        let rows: Vec<Row> = self
            .rows::<device::Entity>()
            .select_only()
            .column(device::Column::AgentVersion)
            .column_as(device::Column::Id.count(), "devices")
            .group_by(device::Column::AgentVersion)
            .into_model()
            .all(self.reader())
            .await?;
        let counts = rows.into_iter().map(|row| AgentVersionCount {
            agent_version: row.agent_version,
            devices: unsigned(row.devices),
        });
        let mut counts: Vec<AgentVersionCount> = counts.collect();
        counts.sort_by(|a, b| (b.devices, &a.agent_version).cmp(&(a.devices, &b.agent_version)));
        Ok(counts)
    }

    /// Devices by what they run, most first: by their outcomes, corrected where they drift.
    async fn releases(&self) -> Result<Vec<ReleaseCount>> {
        #[derive(FromQueryResult)]
        struct Expected {
            name: String,
            version: String,
            devices: i64,
        }
        #[derive(FromQueryResult)]
        struct Drifted {
            name: String,
            expected_version: String,
            actual_version: String,
            actual_digest: Option<String>,
            devices: i64,
        }
        let expected: Vec<Expected> = self
            .rows::<device_release::Entity>()
            .select_only()
            .column(device_release::Column::Name)
            .column(device_release::Column::Version)
            .column_as(device_release::Column::DeviceId.count(), "devices")
            .group_by(device_release::Column::Name)
            .group_by(device_release::Column::Version)
            .into_model()
            .all(self.reader())
            .await?;
        let mut counts = BTreeMap::<(String, String), i64>::new();
        for row in expected {
            *counts.entry((row.name, row.version)).or_default() += row.devices;
        }
        let columns = [
            device_drift::Column::Name,
            device_drift::Column::ExpectedVersion,
            device_drift::Column::ActualVersion,
            device_drift::Column::ActualDigest,
        ];
        let counted = self
            .rows::<device_drift::Entity>()
            .select_only()
            .columns(columns)
            .column_as(device_drift::Column::DeviceId.count(), "devices");
        let grouped = columns.into_iter().fold(counted, QuerySelect::group_by);
        let drifted: Vec<Drifted> = grouped.into_model().all(self.reader()).await?;
        for row in drifted {
            if let Some(expected) = counts.get_mut(&(row.name.clone(), row.expected_version)) {
                *expected -= row.devices;
            }
            // A device that runs nothing under the name is counted nowhere.
            if row.actual_digest.is_some() {
                *counts.entry((row.name, row.actual_version)).or_default() += row.devices;
            }
        }
        let mut counts: Vec<_> = counts
            .into_iter()
            .filter(|(_, devices)| *devices > 0)
            .map(|((name, version), devices)| ReleaseCount {
                name,
                version,
                devices: unsigned(devices),
            })
            .collect();
        // What is equal stays in the order of names.
        counts.sort_by_key(|count| std::cmp::Reverse(count.devices));
        Ok(counts)
    }
}

/// The first of a list, and how many there are beyond.
fn shortest<T>(mut list: Vec<T>, limit: u32) -> (Vec<T>, u64) {
    let left = list.len().saturating_sub(limit as usize) as u64;
    list.truncate(limit as usize);
    (list, left)
}
