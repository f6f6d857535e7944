//! What a deployment would be, so that its devices can be asked before it is ordered. Changes
//! nothing.

use kernex_proto::{ids::DeviceId, v1};

use crate::{
    clock::Timestamp,
    domain::{device::DiskFault, penalty::Penalty},
    store::{
        db::{
            error::{Result, StoreError},
            values::{parse_name, unsigned},
        },
        entity::stored::Stored,
        read::{
            bundles::{find_bundle, parse_format},
            new_deployment::NewDeployment,
            penalties::penalties,
            scope::View,
            selected_devices::select_devices,
        },
    },
};

/// A deployment that is not ordered yet.
#[derive(Debug, Clone)]
pub struct Planning {
    /// What its devices would be told.
    pub deploy: v1::Deploy,
    pub manifest_json: String,
    /// Bytes of the bundle's files once unpacked; 0 when not known.
    pub unpacked_bytes: u64,
    /// Its files, folders and links; 0 when not known.
    pub entries: u64,
    /// When work could begin, where that is not at once.
    pub opens_at: Option<Timestamp>,
    /// The devices that it selects, by id.
    pub devices: Vec<PlannedDevice>,
}

/// A device that an order selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDevice {
    pub id: DeviceId,
    pub name: String,
    /// Two copies of it exist, so it gets no commands.
    pub conflicted: bool,
    /// It failed the bundle too often to get it again by itself.
    pub penalty: Option<Penalty>,
    /// What is wrong with the disk of its agent's state folder, so it gets no commands.
    pub disk_fault: Option<DiskFault>,
}

impl View {
    /// What an order would make.
    pub async fn planning(&self, new: &NewDeployment) -> Result<Planning> {
        let bundle = find_bundle(self.reader(), self.scope, &new.bundle).await?;
        let devices = select_devices(self.reader(), self.scope, new, &bundle).await?;
        if devices.is_empty() && new.terms.dynamic.is_none() {
            return Err(StoreError::NoTargets);
        }
        let now = self.store.now();
        let schedule = new.terms.schedule_at(now, new.delivery)?;
        let may_have_failed = devices.values().filter(|device| device.may_have_failed);
        let ids: Vec<Stored<DeviceId>> = may_have_failed.map(|device| device.id).collect();
        let after = new.terms.penalty_after;
        let penalties = penalties(self.reader(), &bundle.digest, &ids, after).await?;
        Ok(Planning {
            deploy: v1::Deploy {
                name: bundle.name,
                version: bundle.version,
                digest: bundle.digest,
                size_bytes: unsigned(bundle.size),
                format: parse_name("format", &bundle.format, parse_format)?.into(),
                execution_ms: u64::try_from(new.execution.as_millis()).unwrap_or(u64::MAX),
                ..v1::Deploy::default()
            },
            opens_at: schedule.opens_at(now),
            manifest_json: bundle.manifest_json,
            unpacked_bytes: unsigned(bundle.unpacked_bytes),
            entries: unsigned(bundle.entries),
            devices: devices
                .into_values()
                .map(|row| PlannedDevice {
                    id: row.id.0,
                    name: row.name,
                    conflicted: row.conflicted,
                    penalty: penalties.get(&row.id).copied(),
                    disk_fault: row.disk_fault.as_deref().and_then(DiskFault::parse),
                })
                .collect(),
        })
    }
}
