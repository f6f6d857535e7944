//! Revokes operator tokens and enrolment tokens.

use kernex_proto::ids::TokenId;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, sea_query::Expr};
use serde_json::json;

use crate::store::{
    db::{
        error::{Result, not_found},
        store::Store,
    },
    entity::{enrollment_token, operator_token, stored::Stored},
    write::{audit::audit, replay::Caller, revoke::revoke_token},
};

impl Store {
    pub async fn revoke_operator_token(&self, caller: &Caller, id: TokenId) -> Result<()> {
        self.write(|tx| async move {
            let known = operator_token::Entity::find_by_id(Stored(id))
                .one(&tx.db)
                .await?;
            let row = known.ok_or_else(|| not_found("operator token", id))?;
            if row.revoked_at.is_some() {
                return Ok(());
            }
            revoke_token(&tx, id).await?;
            audit(&tx, caller, id, json!({ "name": row.name })).await
        })
        .await
    }

    /// Revokes an enrolment token. Devices that used it stay.
    pub async fn revoke_enrollment_token(&self, caller: &Caller, id: TokenId) -> Result<()> {
        self.write(|tx| async move {
            let known = enrollment_token::Entity::find_by_id(Stored(id))
                .one(&tx.db)
                .await?;
            let row = known.ok_or_else(|| not_found("enrolment token", id))?;
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
