//! Configurations, what they come to for each device, and what the devices say about it.

use std::collections::BTreeMap;

use kernex_proto::{ids::DeviceId, v1};
use prost::Message as _;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    sea_query::{Expr, ExprTrait as _, OnConflict},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Caller, Result, Store, StoreError,
    attempts::{signed, unsigned},
    devices::{clean, find_device, matching, not_found},
    entity::{configuration, device, device_configuration},
    requests::{audit, body_hash, remember, replayed},
    transaction::{ID_CHUNK, insert_all, padded},
};
use crate::{
    clock::Timestamp,
    domain::{
        configuration::{merge, same},
        selector::Selector,
    },
};

/// Who a configuration is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One device; by id or name when it is given.
    Device(String),
    /// Every device the selector means.
    Selector(Selector),
}

/// A configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// Unique name.
    pub name: String,
    /// Who it is for.
    pub scope: Scope,
    /// What agents go by; its revision means nothing here.
    pub configure: v1::Configure,
    /// Grows by one with each change.
    pub revision: u64,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// What one device works by.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceConfiguration {
    /// What it should work by.
    pub wanted: v1::Configure,
    /// Revision it said it works by.
    pub active_revision: u64,
    /// Revision it refused last.
    pub refused_revision: u64,
    /// Why.
    pub refusal: String,
    /// When it last said something.
    pub answered_at: Option<Timestamp>,
}

impl Store {
    /// Makes or replaces a configuration. `expected` is the revision it replaces; 0 replaces any.
    pub async fn set_configuration(
        &self,
        caller: &Caller,
        name: &str,
        scope: &Scope,
        configure: &v1::Configure,
        expected: u64,
    ) -> Result<Configuration> {
        let scope_text = format!("{scope:?}");
        let mut canonical: Vec<_> = configure.values.iter().collect();
        canonical.sort();
        let settings = configure
            .settings
            .clone()
            .unwrap_or_default()
            .encode_to_vec();
        let body = body_hash(&(name, &scope_text, settings, canonical, expected));
        self.write(|tx| async move {
            if replayed::<()>(&tx, caller, body).await?.is_some() {
                return by_name(&tx.db, name)
                    .await?
                    .map(from_row)
                    .ok_or_else(|| not_found("configuration", name))?;
            }
            let known = by_name(&tx.db, name).await?;
            let before = known.as_ref().map_or(0, |row| unsigned(row.revision));
            if expected != 0 && expected != before {
                return Err(StoreError::Conflict {
                    kind: "configuration",
                    id: name.to_owned(),
                    revision: before,
                });
            }
            let (device_id, selector) = match scope {
                Scope::Device(device) => (Some(find_device(&tx.db, device).await?.id), None),
                Scope::Selector(selector) => (None, Some(selector.to_string())),
            };
            let row = configuration::Model {
                id: known.as_ref().map_or_else(Uuid::now_v7, |row| row.id),
                name: name.to_owned(),
                device_id,
                selector,
                configure: configure.encode_to_vec(),
                revision: signed(before) + 1,
                updated_at: tx.now.0,
            };
            if known.is_some() {
                row.clone()
                    .into_active_model()
                    .reset_all()
                    .update(&tx.db)
                    .await?;
            } else {
                insert_all::<configuration::Entity>(&tx.db, vec![row.clone()], None).await?;
            }
            let detail = json!({ "configuration": name, "revision": row.revision });
            audit(&tx, caller, name, detail.clone()).await?;
            tx.event("configuration.changed", device_id, None, detail);
            remember(&tx, caller, body, &()).await?;
            from_row(row)
        })
        .await
    }

    /// Removes a configuration.
    pub async fn delete_configuration(&self, caller: &Caller, name: &str) -> Result<()> {
        let body = body_hash(&name);
        self.write(|tx| async move {
            if replayed::<()>(&tx, caller, body).await?.is_some() {
                return Ok(());
            }
            let row = by_name(&tx.db, name).await?;
            let row = row.ok_or_else(|| not_found("configuration", name))?;
            configuration::Entity::delete_by_id(row.id)
                .exec(&tx.db)
                .await?;
            let detail = json!({ "configuration": name });
            audit(&tx, caller, name, detail.clone()).await?;
            tx.event("configuration.deleted", row.device_id, None, detail);
            remember(&tx, caller, body, &()).await
        })
        .await
    }

    /// Every configuration, by name.
    pub async fn list_configurations(&self) -> Result<Vec<Configuration>> {
        let rows = all(self.reader()).await?;
        rows.into_iter().map(from_row).collect()
    }

    /// What one device works by; none when no configuration ever meant it.
    pub async fn device_configuration(&self, device: &str) -> Result<Option<DeviceConfiguration>> {
        let device = find_device(self.reader(), device).await?;
        let row = device_configuration::Entity::find_by_id(device.id);
        row.one(self.reader())
            .await?
            .map(|row| {
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

    /// Gives each of these devices its next revision if what is meant for it has changed.
    pub async fn reconcile_configurations(&self, devices: &[DeviceId]) -> Result<()> {
        for chunk in devices.chunks(ID_CHUNK) {
            let changed = self.changed_configurations(chunk).await?;
            if changed.is_empty() {
                continue;
            }
            let changed = &changed;
            self.write(|tx| async move {
                // Another replica may have seen the same change; whoever raises a revision first has done it.
                let newer = OnConflict::column(device_configuration::Column::DeviceId)
                    .update_columns([
                        device_configuration::Column::Revision,
                        device_configuration::Column::Configure,
                        device_configuration::Column::SentEpoch,
                    ])
                    .action_and_where(
                        Expr::col((
                            device_configuration::Entity,
                            device_configuration::Column::Revision,
                        ))
                        .lt(Expr::col((
                            sea_orm::sea_query::Alias::new("excluded"),
                            device_configuration::Column::Revision,
                        ))),
                    )
                    .to_owned();
                insert_all::<device_configuration::Entity>(&tx.db, changed.clone(), Some(newer))
                    .await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    async fn changed_configurations(
        &self,
        devices: &[DeviceId],
    ) -> Result<Vec<device_configuration::Model>> {
        let ids: Vec<Uuid> = devices.iter().map(|device| device.0).collect();
        let known = self.known_configurations(&ids).await?;
        let configurations = all(self.reader()).await?;
        if configurations.is_empty() && known.is_empty() {
            return Ok(Vec::new());
        }
        let rows = device::Entity::find()
            .filter(device::Column::Id.is_in(padded(ids)))
            .all(self.reader())
            .await?;
        let mut meant: BTreeMap<Uuid, Vec<v1::Configure>> = BTreeMap::new();
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
                meant.entry(device.id).or_default().push(configure);
            }
        }
        for configuration in &configurations {
            if let Some(list) = configuration.device_id.and_then(|id| meant.get_mut(&id)) {
                list.push(decode(&configuration.configure)?);
            }
        }
        let mut changed = Vec::new();
        for (device_id, list) in meant {
            let before = known.get(&device_id);
            let mut wanted = merge(&list);
            let stored = before.map(|row| decode(&row.configure)).transpose()?;
            let unchanged = match &stored {
                Some(stored) => same(stored, &wanted),
                None => same(&v1::Configure::default(), &wanted),
            };
            if unchanged {
                continue;
            }
            let revision = before.map_or(0, |row| row.revision) + 1;
            wanted.revision = unsigned(revision);
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
        ids: &[Uuid],
    ) -> Result<BTreeMap<Uuid, device_configuration::Model>> {
        let rows = device_configuration::Entity::find()
            .filter(device_configuration::Column::DeviceId.is_in(padded(ids.iter().copied())))
            .all(self.reader())
            .await?;
        Ok(rows.into_iter().map(|row| (row.device_id, row)).collect())
    }

    /// What was not pushed yet in these sessions.
    pub async fn due_configurations(
        &self,
        sessions: &[(DeviceId, u64)],
    ) -> Result<Vec<(DeviceId, v1::Configure)>> {
        let mut due = Vec::new();
        for chunk in sessions.chunks(ID_CHUNK) {
            let ids: Vec<Uuid> = chunk.iter().map(|(device, _)| device.0).collect();
            let known = self.known_configurations(&ids).await?;
            for (device, epoch) in chunk {
                if let Some(row) = known.get(&device.0)
                    && row.sent_epoch < signed(*epoch)
                {
                    due.push((*device, decode(&row.configure)?));
                }
            }
        }
        Ok(due)
    }

    /// Notes what was pushed, and in which session. Written behind.
    pub async fn mark_configurations_sent(&self, sent: &[(DeviceId, u64, u64)]) -> Result<()> {
        self.write(|tx| async move {
            for (device, revision, epoch) in sent {
                device_configuration::Entity::update_many()
                    .col_expr(
                        device_configuration::Column::SentEpoch,
                        Expr::value(signed(*epoch)),
                    )
                    .filter(device_configuration::Column::DeviceId.eq(device.0))
                    .filter(device_configuration::Column::Revision.eq(signed(*revision)))
                    .exec(&tx.db)
                    .await?;
            }
            Ok(())
        })
        .await
    }

    /// Keeps what a device said about its configuration in the session of this number, unless its key is revoked by now.
    pub async fn configured(
        &self,
        device: DeviceId,
        epoch: u64,
        answer: &v1::Configured,
    ) -> Result<()> {
        self.write(|tx| async move {
            let silenced = self.silenced(&tx, [device.0]).await?;
            if silenced
                .get(&device.0)
                .is_some_and(|newest| epoch <= *newest)
            {
                return Ok(());
            }
            let row = device_configuration::Entity::find_by_id(device.0);
            let Some(mut row) = row.one(&tx.db).await? else {
                return Ok(());
            };
            let news = row.active_revision != signed(answer.active_revision);
            row.active_revision = signed(answer.active_revision);
            row.answered_at = Some(tx.now.0);
            let kind = if answer.applied {
                "configuration.applied"
            } else {
                row.refused_revision = signed(answer.revision);
                let refusal = clean(&answer.refusal);
                row.refusal = refusal[..refusal.floor_char_boundary(1024)].to_owned();
                "configuration.refused"
            };
            if (news || !answer.applied) && self.0.event_limit.take(device.0) {
                let detail = json!({ "revision": answer.revision, "refusal": row.refusal });
                tx.event(kind, Some(device.0), None, detail);
            }
            row.into_active_model().reset_all().update(&tx.db).await?;
            Ok(())
        })
        .await
    }
}

async fn all<C: sea_orm::ConnectionTrait>(db: &C) -> Result<Vec<configuration::Model>> {
    let query = configuration::Entity::find().order_by_asc(configuration::Column::Name);
    Ok(query.all(db).await?)
}

async fn by_name<C: sea_orm::ConnectionTrait>(
    db: &C,
    name: &str,
) -> Result<Option<configuration::Model>> {
    let query = configuration::Entity::find().filter(configuration::Column::Name.eq(name));
    Ok(query.one(db).await?)
}

fn decode(bytes: &[u8]) -> Result<v1::Configure> {
    v1::Configure::decode(bytes)
        .map_err(|error| sea_orm::DbErr::Type(format!("a stored configuration: {error}")).into())
}

fn from_row(row: configuration::Model) -> Result<Configuration> {
    let scope = match (row.device_id, &row.selector) {
        (Some(device), _) => Scope::Device(device.to_string()),
        (None, selector) => {
            let text = selector.as_deref().unwrap_or_default();
            Scope::Selector(Selector::parse(text).map_err(|error| {
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
