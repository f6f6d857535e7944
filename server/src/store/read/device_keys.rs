//! Public keys of devices: those that speak for them, and those that were revoked.

use std::collections::{BTreeSet, HashMap};

use kernex_proto::ids::{DeviceId, Digest, TokenId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    revocations::{Cause, Revocation},
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
            store::Store,
            transaction::Tx,
            values::{digest, signed, unsigned},
        },
        entity::{cluster, device_key, operator_token, stored::Stored},
    },
};

/// The public key that speaks for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceKey {
    /// SPKI DER.
    pub der: Vec<u8>,
    /// SHA-256 of that.
    pub digest: Digest,
}

/// A key that was revoked, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedKey {
    pub key: DeviceKey,
    pub cause: Cause,
    /// Name of its device when it was revoked.
    pub device_name: String,
}

/// How many revoked keys of one device are tried on a signature.
const TRIED: usize = 4;

impl Store {
    /// The keys that speak for these devices; none for one that is unknown or whose key is revoked.
    pub async fn device_keys(&self, devices: &[DeviceId]) -> Result<HashMap<DeviceId, DeviceKey>> {
        if devices.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = device_key::Entity::find()
            .filter(
                device_key::Column::DeviceId.is_in(padded(devices.iter().map(|device| device.0))),
            )
            .filter(device_key::Column::RevokedAt.is_null())
            .all(self.reader())
            .await?;
        rows.into_iter()
            .map(|row| {
                let key = DeviceKey {
                    digest: digest(&row.digest)?,
                    der: row.der,
                };
                Ok((row.device_id.0, key))
            })
            .collect()
    }

    /// The newest revoked keys of these devices, as many of each as a proof is tried with. Keys
    /// without a reason, from earlier versions, are left out.
    pub async fn revoked_keys(
        &self,
        devices: &[DeviceId],
    ) -> Result<HashMap<DeviceId, Vec<RevokedKey>>> {
        let mut keys = HashMap::<DeviceId, Vec<RevokedKey>>::new();
        for chunk in devices.chunks(ID_CHUNK) {
            let ids = padded(chunk.iter().map(|device| device.0));
            let rows = device_key::Entity::find()
                .filter(device_key::Column::DeviceId.is_in(ids))
                .filter(device_key::Column::RevokedAt.is_not_null())
                .order_by_desc(device_key::Column::RevokedAt)
                .limit((chunk.len() * TRIED * 4) as u64)
                .all(self.reader())
                .await?;
            for row in rows {
                let theirs = keys.entry(row.device_id.0).or_default();
                if theirs.len() < TRIED
                    && let Some(key) = revoked_key(row)?
                {
                    theirs.push(key);
                }
            }
        }
        Ok(keys)
    }

    /// Number of the newest transaction that revoked something.
    pub async fn revocation_number(&self) -> Result<u64> {
        let number = cluster::Entity::find()
            .select_only()
            .column(cluster::Column::Revocations)
            .into_tuple::<i64>()
            .one(self.reader())
            .await?;
        Ok(unsigned(number.unwrap_or(0)))
    }

    /// Everything that was revoked after the transaction of this number, by any replica.
    pub async fn revoked_after(&self, number: u64) -> Result<Vec<Revocation>> {
        let keys: Vec<(Stored<DeviceId>, Option<i64>, Option<String>)> = device_key::Entity::find()
            .select_only()
            .columns([
                device_key::Column::DeviceId,
                device_key::Column::RevokedEpoch,
                device_key::Column::RevokedBecause,
            ])
            .filter(device_key::Column::Revocation.is_not_null())
            .filter(device_key::Column::Revocation.gt(signed(number)))
            .into_tuple()
            .all(self.reader())
            .await?;
        let keys = keys.into_iter().filter_map(|(device, epoch, because)| {
            Some(Revocation::Keys {
                device: device.0,
                epoch: unsigned(epoch?),
                cause: Cause::parse(&because?)?,
            })
        });
        let tokens: Vec<Stored<TokenId>> = operator_token::Entity::find()
            .select_only()
            .column(operator_token::Column::Id)
            .filter(operator_token::Column::Revocation.gt(signed(number)))
            .into_tuple()
            .all(self.reader())
            .await?;
        let tokens = tokens.into_iter().map(|id| Revocation::Token(id.0));
        Ok(keys.chain(tokens).collect())
    }

    /// For each of these devices with a revoked key: sessions up to the number spoke with it, and
    /// what they report is not believed. Asked in the transaction that would write the report.
    pub(crate) async fn silenced(
        &self,
        tx: &Tx,
        devices: impl IntoIterator<Item = Stored<DeviceId>>,
    ) -> Result<HashMap<Stored<DeviceId>, u64>> {
        // SQLite: only this process writes, and a key that was revoked before it started has no
        // session in it.
        if self.is_alone() && !self.revocations().any() {
            return Ok(HashMap::new());
        }
        let devices: BTreeSet<Stored<DeviceId>> = devices.into_iter().collect();
        let devices: Vec<Stored<DeviceId>> = devices.into_iter().collect();
        let mut silenced = HashMap::new();
        for chunk in devices.chunks(ID_CHUNK) {
            let rows: Vec<(Stored<DeviceId>, Option<i64>)> = device_key::Entity::find()
                .select_only()
                .columns([
                    device_key::Column::DeviceId,
                    device_key::Column::RevokedEpoch,
                ])
                .filter(device_key::Column::DeviceId.is_in(padded(chunk.iter().copied())))
                .filter(device_key::Column::RevokedAt.is_not_null())
                .into_tuple()
                .all(&tx.db)
                .await?;
            for (device, epoch) in rows {
                let newest = silenced.entry(device).or_insert(0);
                *newest = Ord::max(*newest, unsigned(epoch.unwrap_or(0)));
            }
        }
        Ok(silenced)
    }
}

/// What is remembered of a revoked key; none where no reason was recorded.
pub(crate) fn revoked_key(row: device_key::Model) -> Result<Option<RevokedKey>> {
    let Some(cause) = row.revoked_because.as_deref().and_then(Cause::parse) else {
        return Ok(None);
    };
    Ok(Some(RevokedKey {
        key: DeviceKey {
            digest: digest(&row.digest)?,
            der: row.der,
        },
        cause,
        device_name: row.device_name.unwrap_or_default(),
    }))
}
