//! Makes operator tokens and enrolment tokens.

use std::{collections::BTreeMap, time::Duration};

use kernex_proto::ids::{Digest, TokenId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};
use serde_json::json;

use crate::{
    clock::Timestamp,
    store::{
        db::{
            error::{Result, StoreError},
            sizes::insert_all,
            store::OperatorStore,
            transaction::Tx,
        },
        entity::{enrollment_token, operator_token, stored::Stored},
        read::{
            devices::find_device,
            tokens::{
                EnrollmentTokenRow, OperatorTokenRow, Role, operator_token_from, token_from,
                working_token,
            },
        },
        write::{audit::audit, label_device::check_labels, replay::Caller, revoke::revoke_token},
    },
};

/// An operator token to make.
#[derive(Debug, Clone)]
pub struct NewOperatorToken {
    /// Names its holder.
    pub name: String,
    pub role: Role,
    pub hash: Digest,
    pub ttl: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperatorToken {
    pub id: TokenId,
    pub expires_at: Timestamp,
}

/// The admin token that the server made for the owner of its data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminToken {
    pub token: OperatorToken,
    /// `admin`, with a number behind it when that is taken.
    pub name: String,
    /// Admin tokens that the server made before. They work, or worked until now when replaced.
    pub earlier: Vec<OperatorTokenRow>,
}

#[derive(Debug, Clone)]
pub struct NewEnrollmentToken {
    pub id: TokenId,
    pub secret_hash: Digest,
    /// How many new devices it lets in.
    pub uses: u32,
    pub ttl: Duration,
    pub labels: BTreeMap<String, String>,
    /// Name or id of the device one new key may take over.
    pub replaces_device: Option<String>,
}

impl OperatorStore {
    pub async fn create_operator_token(
        &self,
        caller: &Caller,
        new: NewOperatorToken,
    ) -> Result<OperatorToken> {
        let db = &self.0;
        let new = &new;
        db.write(|tx| async move {
            if working_token(&tx.db, operator_token::Entity::find(), &new.name, tx.now)
                .await?
                .is_some()
            {
                return Err(StoreError::AlreadyExists {
                    kind: "operator token",
                    id: new.name.clone(),
                    why: ", and works; choose another name, or revoke it first".into(),
                });
            }
            insert_operator_token(&tx, caller, new).await
        })
        .await
    }

    /// Makes an admin token under `new`'s name, with a number behind it while that is taken. With
    /// `replace` the ones that the same caller made before are revoked.
    pub async fn create_admin_token(
        &self,
        caller: &Caller,
        new: NewOperatorToken,
        replace: bool,
    ) -> Result<AdminToken> {
        let db = &self.0;
        let new = &new;
        db.write(|tx| async move {
            let earlier = operator_token::Entity::find()
                .filter(operator_token::Column::CreatedBy.eq(caller.name.as_str()))
                .filter(operator_token::Column::RevokedAt.is_null())
                .filter(operator_token::Column::ExpiresAt.gt(tx.now.0))
                .order_by_asc(operator_token::Column::Id)
                .all(&tx.db)
                .await?;
            if replace {
                for row in &earlier {
                    revoke_token(&tx, row.id.0).await?;
                    audit(
                        &tx,
                        caller,
                        row.id,
                        json!({ "name": row.name, "revoked": true }),
                    )
                    .await?;
                }
            }
            let mut new = new.clone();
            let base = new.name.clone();
            let mut number = 1;
            while working_token(&tx.db, operator_token::Entity::find(), &new.name, tx.now)
                .await?
                .is_some()
            {
                number += 1;
                new.name = format!("{base}-{number}");
            }
            let token = insert_operator_token(&tx, caller, &new).await?;
            let earlier = earlier.into_iter().map(operator_token_from);
            Ok(AdminToken {
                token,
                name: new.name,
                earlier: earlier.collect::<Result<_>>()?,
            })
        })
        .await
    }

    pub async fn create_enrollment_token(
        &self,
        caller: &Caller,
        new: NewEnrollmentToken,
    ) -> Result<EnrollmentTokenRow> {
        let db = &self.0;
        check_labels(&new.labels)?;
        let new = &new;
        db.write(|tx| async move {
            let replaces = match &new.replaces_device {
                Some(device) => Some(find_device(&tx.db, caller.scope, device).await?),
                None => None,
            };
            let uses = i32::try_from(new.uses.max(1)).unwrap_or(i32::MAX);
            let row = enrollment_token::Model {
                id: Stored(new.id),
                secret_hash: new.secret_hash.to_string(),
                uses_total: uses,
                uses_left: uses,
                labels: json!(new.labels).to_string(),
                replaces_id: replaces.as_ref().map(|device| device.id),
                replaces_name: replaces.map(|device| device.name),
                created_by: caller.name.clone(),
                created_at: tx.now.0,
                expires_at: tx.now.plus(new.ttl).0,
                revoked_at: None,
            };
            insert_all::<enrollment_token::Entity>(&tx.db, vec![row.clone()], None).await?;
            let detail =
                json!({ "uses": uses, "labels": new.labels, "replaces": row.replaces_name });
            audit(&tx, caller, new.id, detail).await?;
            Ok(token_from(row))
        })
        .await
    }
}

async fn insert_operator_token(
    tx: &Tx,
    caller: &Caller,
    new: &NewOperatorToken,
) -> Result<OperatorToken> {
    let id = TokenId(tx.new_id());
    let expires_at = tx.now.plus(new.ttl);
    let row = operator_token::Model {
        id: Stored(id),
        name: new.name.clone(),
        role: new.role.as_str().to_owned(),
        hash: new.hash.to_string(),
        created_by: caller.name.clone(),
        created_at: tx.now.0,
        expires_at: expires_at.0,
        revoked_at: None,
        revocation: None,
        last_used_at: None,
        last_used_from: None,
    };
    insert_all::<operator_token::Entity>(&tx.db, vec![row], None).await?;
    let detail = json!({ "name": new.name, "role": new.role.as_str() });
    audit(tx, caller, id, detail).await?;
    Ok(OperatorToken { id, expires_at })
}
