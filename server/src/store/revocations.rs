//! Revoking, in the transaction of whatever makes it necessary; and what other replicas have revoked.
//!
//! Each transaction that revokes something takes a number, in the order of commits, and puts it on the rows. A replica that
//! knows the newest number it has seen reads one row to learn that there is nothing new.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use kernex_proto::ids::{DeviceId, TokenId};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, ExprTrait, Query},
};
use uuid::Uuid;

use super::{
    Result, Store,
    attempts::{signed, unsigned},
    devices::{DeviceKey, digest},
    entity::{cluster, device, device_key, operator_token},
    transaction::{ID_CHUNK, Tx, padded},
};
use crate::revocations::{Cause, Revocation, Revocations};

/// How long a key is remembered after it was revoked: until then, whoever proves to hold it is told why it does not work.
pub const REMEMBERED: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Revoked keys of one device that a proof is tried with.
const TRIED: usize = 4;

/// A key that was revoked, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedKey {
    /// The key.
    pub key: DeviceKey,
    /// Why.
    pub cause: Cause,
    /// Name of its device then.
    pub device_name: String,
}

impl Store {
    /// Who is told of what is revoked.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// The newest keys of these devices that were revoked, of each as many as a proof is tried with. Those of earlier versions are
    /// not among them: nobody wrote down why.
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
                let theirs = keys.entry(DeviceId(row.device_id)).or_default();
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

    /// What was revoked after the transaction of this number, by whomever.
    pub async fn revoked_after(&self, number: u64) -> Result<Vec<Revocation>> {
        let keys: Vec<(Uuid, Option<i64>, Option<String>)> = device_key::Entity::find()
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
                device: DeviceId(device),
                epoch: unsigned(epoch?),
                cause: Cause::parse(&because?)?,
            })
        });
        let tokens: Vec<Uuid> = operator_token::Entity::find()
            .select_only()
            .column(operator_token::Column::Id)
            .filter(operator_token::Column::Revocation.gt(signed(number)))
            .into_tuple()
            .all(self.reader())
            .await?;
        let tokens = tokens.into_iter().map(|id| Revocation::Token(TokenId(id)));
        Ok(keys.chain(tokens).collect())
    }

    /// Sessions whose key is revoked, as the newest such number of each of these devices that has any; what they say is not
    /// to be believed. Asked in the transaction that would write it down.
    pub(super) async fn silenced(
        &self,
        tx: &Tx,
        devices: impl IntoIterator<Item = Uuid>,
    ) -> Result<HashMap<Uuid, u64>> {
        // Nobody else writes to this database: what was revoked before this process has no session in it.
        if self.is_alone() && !self.revocations().any() {
            return Ok(HashMap::new());
        }
        let devices: BTreeSet<Uuid> = devices.into_iter().collect();
        let devices: Vec<Uuid> = devices.into_iter().collect();
        let mut silenced = HashMap::new();
        for chunk in devices.chunks(ID_CHUNK) {
            let rows: Vec<(Uuid, Option<i64>)> = device_key::Entity::find()
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

/// Revokes every key of a device: whoever has one is told why for [`REMEMBERED`], and cannot enrol with it.
pub(super) async fn revoke_keys(tx: &Tx, device: &device::Model, cause: Cause) -> Result<()> {
    let number = next_number(tx).await?;
    device_key::Entity::update_many()
        .col_expr(device_key::Column::RevokedAt, Expr::value(tx.now.0))
        .col_expr(
            device_key::Column::RevokedBecause,
            Expr::value(cause.as_str()),
        )
        .col_expr(
            device_key::Column::DeviceName,
            Expr::value(device.name.as_str()),
        )
        .col_expr(device_key::Column::RevokedEpoch, Expr::value(device.epoch))
        .col_expr(device_key::Column::Revocation, Expr::value(number))
        .filter(device_key::Column::DeviceId.eq(device.id))
        .filter(device_key::Column::RevokedAt.is_null())
        .exec(&tx.db)
        .await?;
    tx.revoked(Revocation::Keys {
        device: DeviceId(device.id),
        epoch: unsigned(device.epoch),
        cause,
    });
    Ok(())
}

/// Revokes an operator token.
pub(super) async fn revoke_token(tx: &Tx, id: TokenId) -> Result<()> {
    let number = next_number(tx).await?;
    operator_token::Entity::update_many()
        .col_expr(operator_token::Column::RevokedAt, Expr::value(tx.now.0))
        .col_expr(operator_token::Column::Revocation, Expr::value(number))
        .filter(operator_token::Column::Id.eq(id.0))
        .exec(&tx.db)
        .await?;
    tx.revoked(Revocation::Token(id));
    Ok(())
}

/// What is remembered of a revoked key; none where nobody wrote down why.
pub(super) fn revoked_key(row: device_key::Model) -> Result<Option<RevokedKey>> {
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

/// Whoever revokes holds the row until it commits.
async fn next_number(tx: &Tx) -> Result<i64> {
    let advance = Query::update()
        .table("cluster")
        .value("revocations", Expr::col("revocations").add(1))
        .and_where(Expr::col("id").eq(1))
        .returning_col("revocations")
        .to_owned();
    let row = tx.db.query_one(&advance).await?;
    Ok(row.map_or(Ok(0), |row| row.try_get::<i64>("", "revocations"))?)
}
