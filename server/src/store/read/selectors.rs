//! Which devices a selector matches. Only the domain knows what a selector means. The database
//! leaves out devices that cannot match, so that finding a few does not read all.

use std::collections::BTreeMap;

use kernex_proto::ids::DeviceId;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect, QueryTrait, Select,
};

use crate::{
    domain::selector::{BUILT_IN, RESERVED_PREFIX, Selector},
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
            values::clean,
        },
        entity::{device, device_label, stored::Stored},
    },
};

/// Labels of one device.
pub(crate) type Labels = BTreeMap<String, String>;

/// A key with more values than this is left to the domain.
const MAX_VALUES: usize = 1_024;

/// Those of `devices` that a selector may match: all that it matches, and perhaps more.
pub(crate) fn candidates(
    devices: Select<device::Entity>,
    selector: &Selector,
) -> Select<device::Entity> {
    let few = selector
        .one_of()
        .filter(|(_, values)| values.len() <= MAX_VALUES);
    few.fold(devices, |query, (key, values)| {
        let values = padded(values.iter().map(|value| clean(value)));
        match column(key) {
            Some(column) => query.filter(column.is_in(values)),
            None => query.filter(device::Column::Id.in_subquery(devices_with_label(key, values))),
        }
    })
}

/// Ids of devices with one of these values of a label.
fn devices_with_label(key: &str, values: Vec<String>) -> sea_orm::sea_query::SelectStatement {
    device_label::Entity::find()
        .select_only()
        .column(device_label::Column::DeviceId)
        .filter(device_label::Column::Key.eq(key))
        .filter(device_label::Column::Value.is_in(values))
        .into_query()
}

/// Labels of many devices.
pub(crate) async fn labels_of<C: ConnectionTrait>(
    db: &C,
    devices: &[Stored<DeviceId>],
) -> Result<BTreeMap<Stored<DeviceId>, Labels>> {
    let mut labels = BTreeMap::<Stored<DeviceId>, Labels>::new();
    for chunk in devices.chunks(ID_CHUNK) {
        let rows = device_label::Entity::find()
            .filter(device_label::Column::DeviceId.is_in(padded(chunk.iter().copied())))
            .all(db)
            .await?;
        for row in rows {
            labels
                .entry(row.device_id)
                .or_default()
                .insert(row.key, row.value);
        }
    }
    Ok(labels)
}

/// Those of these devices that a selector matches, with their labels.
pub(crate) async fn matching<C: ConnectionTrait>(
    db: &C,
    selector: &Selector,
    rows: Vec<device::Model>,
) -> Result<Vec<(device::Model, Labels)>> {
    let ids: Vec<Stored<DeviceId>> = rows.iter().map(|row| row.id).collect();
    let mut labels = labels_of(db, &ids).await?;
    let rows = rows.into_iter().map(|row| {
        let labels = labels.remove(&row.id).unwrap_or_default();
        (row, labels)
    });
    Ok(rows
        .filter(|(row, labels)| selector.is_all() || selector.matches(&all_labels(row, labels)))
        .collect())
}

/// Everything a selector can match of a device: its labels and what it has said about itself.
fn all_labels(row: &device::Model, labels: &Labels) -> Labels {
    let mut answers = labels.clone();
    answers.extend(built_in(row));
    answers
}

/// The column of a built-in label.
fn column(key: &str) -> Option<device::Column> {
    let [name, os, arch, agent_version] = BUILT_IN;
    let columns = [
        (name, device::Column::Name),
        (os, device::Column::Os),
        (arch, device::Column::Arch),
        (agent_version, device::Column::AgentVersion),
    ];
    let word = key.strip_prefix(RESERVED_PREFIX)?;
    columns
        .into_iter()
        .find_map(|(name, column)| (name == word).then_some(column))
}

/// The built-in labels of a device.
pub(crate) fn built_in(row: &device::Model) -> Labels {
    let [name, os, arch, agent_version] = BUILT_IN;
    [
        (name, &row.name),
        (os, &row.os),
        (arch, &row.arch),
        (agent_version, &row.agent_version),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| (format!("{RESERVED_PREFIX}{key}"), value.clone()))
    .collect()
}
