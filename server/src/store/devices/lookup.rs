//! Finding devices and reading and writing their rows, shared by everything that is about devices.

use std::fmt::Display;

use kernex_proto::{ids::Digest, v1};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel,
    QueryFilter,
};
use uuid::Uuid;

use super::Labels;
use crate::{
    clock::Timestamp,
    domain::selector::{RESERVED_PREFIX, check_key, check_value},
    store::{
        Result, StoreError,
        attempts::signed,
        entity::{device, device_drift, device_release},
        transaction::Tx,
    },
};

/// Most labels of one device.
pub(crate) const MAX_LABELS: usize = 64;

/// Longest text an agent says about its machine, in characters.
const MAX_WORD: usize = 256;

/// There is no such thing.
pub(crate) fn not_found(kind: &'static str, id: impl Display) -> StoreError {
    StoreError::NotFound {
        kind,
        id: id.to_string(),
    }
}

/// A device by id or name.
pub(crate) async fn find_device<C: ConnectionTrait>(
    db: &C,
    id_or_name: &str,
) -> Result<device::Model> {
    if let Ok(id) = Uuid::try_parse(id_or_name)
        && let Some(row) = device::Entity::find_by_id(id).one(db).await?
    {
        return Ok(row);
    }
    let row = device::Entity::find()
        .filter(device::Column::Name.eq(clean(id_or_name)))
        .one(db)
        .await?;
    row.ok_or_else(|| not_found("device", id_or_name))
}

/// Writes a whole row back.
pub(crate) async fn update(tx: &Tx, row: device::Model) -> Result<()> {
    row.into_active_model().reset_all().update(&tx.db).await?;
    Ok(())
}

/// Checks labels somebody wants to set.
pub(crate) fn check_labels(labels: &Labels) -> Result<()> {
    if labels.len() > MAX_LABELS {
        return Err(invalid_labels(format!(
            "a device has at most {MAX_LABELS} labels"
        )));
    }
    for (key, value) in labels {
        check_key(key)
            .and_then(|()| check_value(value))
            .map_err(invalid_labels)?;
        if key.starts_with(RESERVED_PREFIX) {
            return Err(invalid_labels(format!(
                "`{key}` belongs to Kernex; choose a key without {RESERVED_PREFIX}"
            )));
        }
    }
    Ok(())
}

pub(crate) fn invalid_labels(why: String) -> StoreError {
    StoreError::Invalid {
        field: "labels",
        why,
    }
}

/// What an agent says about its machine, cut to size.
pub(crate) fn described(mut row: device::Model, inventory: &v1::Inventory) -> device::Model {
    row.os = clean(&inventory.os);
    row.arch = clean(&inventory.arch);
    row.hostname = clean(&inventory.hostname);
    row.kernel = clean(&inventory.kernel);
    row.cpu_count = i64::from(inventory.cpu_count);
    row.memory_bytes = signed(inventory.memory_bytes);
    row
}

/// Text from outside in a form both databases store: short, and without NUL, which PostgreSQL refuses.
pub(crate) fn clean(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(MAX_WORD).collect()
}

/// A digest this program wrote.
pub(crate) fn digest(text: &str) -> Result<Digest, DbErr> {
    text.parse()
        .map_err(|error| DbErr::Type(format!("{error}")))
}

pub(crate) fn drift_from(row: device_drift::Model) -> v1::Drift {
    v1::Drift {
        name: row.name,
        expected_version: row.expected_version,
        expected_digest: row.expected_digest.unwrap_or_default(),
        actual_version: row.actual_version,
        actual_digest: row.actual_digest.unwrap_or_default(),
        since: Some(Timestamp(row.since).to_proto()),
    }
}

pub(crate) fn release_from(row: device_release::Model) -> v1::ActiveRelease {
    v1::ActiveRelease {
        name: row.name,
        version: row.version,
        digest: row.digest,
        previous_digest: row.previous_digest,
        since: Some(Timestamp(row.since).to_proto()),
    }
}
