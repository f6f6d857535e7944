//! Revokes keys and tokens, in the transaction that makes it necessary.
//!
//! Each such transaction takes a number, in the order of commits, and writes it on the rows. A
//! replica remembers the newest number it has seen. One row tells it whether there is a newer one.

use std::time::Duration;

use kernex_proto::ids::TokenId;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, ExprTrait, Query},
};

use crate::{
    revocations::{Cause, Revocation},
    store::{
        db::{error::Result, transaction::Tx, values::unsigned},
        entity::{cluster, device, device_key, operator_token},
    },
};

/// How long a revoked key is kept. Until then its holder is told why it does not work.
pub const REVOCATIONS_KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Revokes all keys of a device. Their holders are told why for [`REVOCATIONS_KEPT`], and cannot
/// enrol with them.
pub(crate) async fn revoke_keys(tx: &Tx, device: &device::Model, cause: Cause) -> Result<()> {
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
        device: device.id.0,
        epoch: unsigned(device.epoch),
        cause,
    });
    Ok(())
}

pub(crate) async fn revoke_token(tx: &Tx, id: TokenId) -> Result<()> {
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

/// The row stays locked until the commit, so numbers follow the order of commits.
async fn next_number(tx: &Tx) -> Result<i64> {
    let advance = Query::update()
        .table(cluster::Entity)
        .value(
            cluster::Column::Revocations,
            Expr::col(cluster::Column::Revocations).add(1),
        )
        .and_where(Expr::col(cluster::Column::Id).eq(1))
        .returning_col(cluster::Column::Revocations)
        .to_owned();
    let row = tx.db.query_one(&advance).await?;
    Ok(row.map_or(Ok(0), |row| row.try_get::<i64>("", "revocations"))?)
}
