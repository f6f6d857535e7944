//! Revokes operator tokens and enrolment tokens.

use kernex_proto::ids::TokenId;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, sea_query::Expr};
use serde_json::json;

use crate::store::{
    db::{
        error::{Result, StoreError, not_found},
        store::OperatorStore,
        transaction::Tx,
    },
    entity::{enrollment_token, operator_token},
    read::tokens::Role,
    write::{audit::audit, replay::Caller, revoke::revoke_token},
};

impl OperatorStore {
    pub async fn revoke_operator_token(&self, caller: &Caller, id: TokenId) -> Result<()> {
        let db = &self.0;
        db.write(|tx| async move {
            let known = caller.scope.rows::<operator_token::Entity>();
            let known = known.filter(operator_token::Column::Id.eq(id.0));
            let row = known.one(&tx.db).await?;
            let row = row.ok_or_else(|| not_found("operator token", id))?;
            if row.revoked_at.is_some() {
                return Ok(());
            }
            refuse_last_admin(&tx, caller, &row).await?;
            revoke_token(&tx, id).await?;
            audit(&tx, caller, id, json!({ "name": row.name })).await
        })
        .await
    }

    /// Revokes an enrolment token. Devices that used it stay.
    pub async fn revoke_enrollment_token(&self, caller: &Caller, id: TokenId) -> Result<()> {
        let db = &self.0;
        db.write(|tx| async move {
            let known = caller.scope.rows::<enrollment_token::Entity>();
            let known = known.filter(enrollment_token::Column::Id.eq(id.0));
            let row = known.one(&tx.db).await?;
            let row = row.ok_or_else(|| not_found("enrolment token", id))?;
            if row.revoked_at.is_some() {
                return Ok(());
            }
            enrollment_token::Entity::update_many()
                .col_expr(enrollment_token::Column::RevokedAt, Expr::value(tx.now.0))
                .filter(enrollment_token::Column::Id.eq(id.0))
                .exec(&tx.db)
                .await?;
            audit(&tx, caller, id, json!({})).await
        })
        .await
    }
}

/// Refuses to end the last admin token that works: nobody could make another one over the network.
async fn refuse_last_admin(tx: &Tx, caller: &Caller, row: &operator_token::Model) -> Result<()> {
    let admin = Role::Admin.as_str();
    if row.role != admin || row.expires_at <= tx.now.0 {
        return Ok(());
    }
    let other = caller
        .scope
        .rows::<operator_token::Entity>()
        .filter(operator_token::Column::Role.eq(admin))
        .filter(operator_token::Column::Id.ne(row.id))
        .filter(operator_token::Column::RevokedAt.is_null())
        .filter(operator_token::Column::ExpiresAt.gt(tx.now.0))
        .one(&tx.db)
        .await?;
    match other {
        Some(_) => Ok(()),
        None => Err(StoreError::LastAdmin(row.name.clone())),
    }
}
