//! Configurations, and what follows from them for each device.

use std::collections::BTreeMap;

use kernex_proto::{ids::DeviceId, v1};
use prost::Message as _;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, Select};

use crate::{
    clock::Timestamp,
    domain::{
        configuration::{AgentConfiguration, merge},
        selector::Selector,
    },
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
            store::Store,
            values::{signed, unsigned},
        },
        entity::{configuration, device, device_configuration, stored::Stored},
        read::{
            devices::find_device,
            scope::{Scope, View},
            selectors::matching,
        },
    },
};

/// Who a configuration is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigurationScope {
    /// One device; by id or name when it is given.
    Device(String),
    /// Every device that the selector matches.
    Selector(Selector),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// Unique name.
    pub name: String,
    pub scope: ConfigurationScope,
    /// Settings and values; its own revision is 0.
    pub configure: v1::Configure,
    /// Grows by one with each change.
    pub revision: u64,
    pub updated_at: Timestamp,
}

/// The configuration of one device, and what the device said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceConfiguration {
    /// What it should apply.
    pub wanted: v1::Configure,
    /// The revision that the device applies, as it said.
    pub active_revision: u64,
    /// The revision that it refused last.
    pub refused_revision: u64,
    /// Why it refused that, in its words.
    pub refusal: String,
    /// When it last said that it applies or refuses one.
    pub answered_at: Option<Timestamp>,
}

impl View {
    /// Every configuration, by name.
    pub async fn list_configurations(&self) -> Result<Vec<Configuration>> {
        let rows = in_order(self.scope).all(self.reader()).await?;
        rows.into_iter().map(from_row).collect()
    }

    /// The configuration of one device; none when none ever applied to it. The row of a device that
    /// is away is written when the device comes; this says now what will apply then.
    pub async fn device_configuration(&self, device: &str) -> Result<Option<DeviceConfiguration>> {
        let device = find_device(self.reader(), self.scope, device).await?;
        let changed = self.store.changed_configurations(&[device.id.0]).await?;
        let row = match changed.into_iter().next() {
            Some(changed) => Some(changed),
            None => {
                let stored = self.rows::<device_configuration::Entity>();
                let stored = stored.filter(device_configuration::Column::DeviceId.eq(device.id));
                stored.one(self.reader()).await?
            }
        };
        row.map(|row| {
            Ok(DeviceConfiguration {
                wanted: decode(&row.configure)?,
                active_revision: unsigned(row.active_revision),
                refused_revision: unsigned(row.refused_revision),
                refusal: row.refusal,
                answered_at: row.answered_at.map(Timestamp),
            })
        })
        .transpose()
    }
}

impl Store {
    /// What the rows of these devices should say, where they say something else.
    pub(crate) async fn changed_configurations(
        &self,
        devices: &[DeviceId],
    ) -> Result<Vec<device_configuration::Model>> {
        let ids: Vec<Stored<DeviceId>> = devices.iter().copied().map(Stored).collect();
        let known = self.known_configurations(&ids).await?;
        let configurations = in_order(Scope::Everything).all(self.reader()).await?;
        if configurations.is_empty() && known.is_empty() {
            return Ok(Vec::new());
        }
        let rows = device::Entity::find()
            .filter(device::Column::Id.is_in(padded(ids)))
            .all(self.reader())
            .await?;
        let mut meant: BTreeMap<Stored<DeviceId>, Vec<AgentConfiguration>> = BTreeMap::new();
        for row in &rows {
            meant.entry(row.id).or_default();
        }
        for configuration in &configurations {
            let Some(selector) = &configuration.selector else {
                continue;
            };
            let Ok(selector) = Selector::parse(selector) else {
                tracing::error!(
                    configuration = configuration.name,
                    "its selector cannot be read"
                );
                continue;
            };
            for (device, _) in matching(self.reader(), &selector, rows.clone()).await? {
                let configure = decode(&configuration.configure)?;
                meant.entry(device.id).or_default().push(configure.into());
            }
        }
        for configuration in &configurations {
            if let Some(list) = configuration.device_id.and_then(|id| meant.get_mut(&id)) {
                list.push(decode(&configuration.configure)?.into());
            }
        }
        let mut changed = Vec::new();
        for (device_id, list) in meant {
            let before = known.get(&device_id);
            let wanted = merge(&list);
            let stored = before.map(|row| decode(&row.configure)).transpose()?;
            if wanted == stored.map(AgentConfiguration::from).unwrap_or_default() {
                continue;
            }
            let revision = before.map_or(0, |row| row.revision) + 1;
            let wanted = v1::Configure {
                revision: unsigned(revision),
                ..wanted.into()
            };
            changed.push(device_configuration::Model {
                device_id,
                revision,
                configure: wanted.encode_to_vec(),
                sent_epoch: -1,
                active_revision: before.map_or(0, |row| row.active_revision),
                refused_revision: before.map_or(0, |row| row.refused_revision),
                refusal: before.map_or_else(String::new, |row| row.refusal.clone()),
                answered_at: before.and_then(|row| row.answered_at),
            });
        }
        Ok(changed)
    }

    async fn known_configurations(
        &self,
        ids: &[Stored<DeviceId>],
    ) -> Result<BTreeMap<Stored<DeviceId>, device_configuration::Model>> {
        let rows = device_configuration::Entity::find()
            .filter(device_configuration::Column::DeviceId.is_in(padded(ids.iter().copied())))
            .all(self.reader())
            .await?;
        Ok(rows.into_iter().map(|row| (row.device_id, row)).collect())
    }

    /// Configurations that were not pushed yet in these sessions.
    pub async fn due_configurations(
        &self,
        sessions: &[(DeviceId, u64)],
    ) -> Result<Vec<(DeviceId, v1::Configure)>> {
        let mut due = Vec::new();
        for chunk in sessions.chunks(ID_CHUNK) {
            let ids: Vec<Stored<DeviceId>> =
                chunk.iter().map(|(device, _)| Stored(*device)).collect();
            let known = self.known_configurations(&ids).await?;
            for (device, epoch) in chunk {
                if let Some(row) = known.get(&Stored(*device))
                    && row.sent_epoch < signed(*epoch)
                {
                    due.push((*device, decode(&row.configure)?));
                }
            }
        }
        Ok(due)
    }
}

/// Configurations, by name.
fn in_order(scope: Scope) -> Select<configuration::Entity> {
    scope
        .rows::<configuration::Entity>()
        .order_by_asc(configuration::Column::Name)
}

pub(crate) async fn by_name<C: ConnectionTrait>(
    db: &C,
    scope: Scope,
    name: &str,
) -> Result<Option<configuration::Model>> {
    let query = scope.rows::<configuration::Entity>();
    Ok(query
        .filter(configuration::Column::Name.eq(name))
        .one(db)
        .await?)
}

fn decode(bytes: &[u8]) -> Result<v1::Configure> {
    v1::Configure::decode(bytes)
        .map_err(|error| sea_orm::DbErr::Type(format!("a stored configuration: {error}")).into())
}

pub(crate) fn from_row(row: configuration::Model) -> Result<Configuration> {
    let scope = match (row.device_id, &row.selector) {
        (Some(device), _) => ConfigurationScope::Device(device.to_string()),
        (None, selector) => {
            let text = selector.as_deref().unwrap_or_default();
            ConfigurationScope::Selector(Selector::parse(text).map_err(|error| {
                sea_orm::DbErr::Type(format!("the selector of {}: {error}", row.name))
            })?)
        }
    };
    Ok(Configuration {
        name: row.name,
        scope,
        configure: decode(&row.configure)?,
        revision: unsigned(row.revision),
        updated_at: Timestamp(row.updated_at),
    })
}
