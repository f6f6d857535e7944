//! Who may operate and who may let devices in: operator tokens and enrolment tokens, by the hash of their secrets.

use std::{collections::BTreeMap, time::Duration};

use kernex_proto::{
    ids::{Digest, TokenId},
    v1,
};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};
use serde_json::json;

use super::{
    Caller, Page, Paged, Result, Store,
    attempts::named,
    devices::{check_labels, find_device, not_found},
    entity::{enrollment_token, operator_token},
    requests::audit,
    revocations::revoke_token,
    transaction::insert_all,
};
use crate::{clock::Timestamp, domain::named_enum};

pub use super::enroll::{EnrollDevice, EnrollError, Enrolled};

named_enum! {
    /// What an operator may do; each role includes the ones before.
    Role <=> v1::Role {
        /// Reads.
        Viewer = "viewer",
        /// Reads and deploys.
        Operator = "operator",
        /// Everything.
        Admin = "admin",
    }
}

/// Whoever holds an operator token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token.
    pub token_id: TokenId,
    /// Who it is for; the author of changes.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// When the token stops working.
    pub expires_at: Timestamp,
}

/// An operator token to make.
#[derive(Debug, Clone)]
pub struct NewOperatorToken {
    /// Who it is for.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Hash of the secret.
    pub hash: Digest,
    /// How long it works.
    pub ttl: Duration,
}

/// An operator token that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperatorToken {
    /// Its id.
    pub id: TokenId,
    /// When it stops working.
    pub expires_at: Timestamp,
}

/// An enrolment token to make.
#[derive(Debug, Clone)]
pub struct NewEnrollmentToken {
    /// Its id, which its text carries.
    pub id: TokenId,
    /// Hash of the secret.
    pub secret_hash: Digest,
    /// How many new devices it lets in.
    pub uses: u32,
    /// How long it works.
    pub ttl: Duration,
    /// Labels each device gets.
    pub labels: BTreeMap<String, String>,
    /// Name or id of the device one new key may take over.
    pub replaces_device: Option<String>,
}

/// An enrolment token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentTokenRow {
    /// Its id.
    pub id: TokenId,
    /// How many new devices it may still let in.
    pub uses_left: u32,
    /// How many it could let in at first.
    pub uses_total: u32,
    /// When it stops working.
    pub expires_at: Timestamp,
    /// Labels each device gets.
    pub labels: BTreeMap<String, String>,
    /// Name of the device one new key may take over.
    pub replaces_device: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether it was revoked.
    pub revoked: bool,
}

impl Store {
    /// Makes an operator token.
    pub async fn create_operator_token(
        &self,
        caller: &Caller,
        new: NewOperatorToken,
    ) -> Result<OperatorToken> {
        let new = &new;
        self.write(|tx| async move {
            let id = TokenId::generate();
            let expires_at = tx.now.plus(new.ttl);
            let row = operator_token::Model {
                id: id.0,
                name: new.name.clone(),
                role: new.role.as_str().to_owned(),
                hash: new.hash.to_string(),
                created_by: caller.name.clone(),
                created_at: tx.now.0,
                expires_at: expires_at.0,
                revoked_at: None,
                revocation: None,
            };
            insert_all::<operator_token::Entity>(&tx.db, vec![row], None).await?;
            audit(
                &tx,
                caller,
                id,
                json!({ "name": new.name, "role": new.role.as_str() }),
            )
            .await?;
            Ok(OperatorToken { id, expires_at })
        })
        .await
    }

    /// The holder of a token that works now.
    pub async fn find_principal(&self, hash: Digest) -> Result<Option<Principal>> {
        let row = operator_token::Entity::find()
            .filter(operator_token::Column::Hash.eq(hash.to_string()))
            .filter(operator_token::Column::RevokedAt.is_null())
            .filter(operator_token::Column::ExpiresAt.gt(self.steady_now().0))
            .one(self.reader())
            .await?;
        row.map(|row| {
            Ok(Principal {
                token_id: TokenId(row.id),
                role: named("role", &row.role, Role::parse)?,
                name: row.name,
                expires_at: Timestamp(row.expires_at),
            })
        })
        .transpose()
    }

    /// Revokes an operator token.
    pub async fn revoke_operator_token(&self, caller: &Caller, id: TokenId) -> Result<()> {
        self.write(|tx| async move {
            let known = operator_token::Entity::find_by_id(id.0).one(&tx.db).await?;
            let row = known.ok_or_else(|| not_found("operator token", id))?;
            if row.revoked_at.is_some() {
                return Ok(());
            }
            revoke_token(&tx, id).await?;
            audit(&tx, caller, id, json!({ "name": row.name })).await
        })
        .await
    }

    /// Whether any operator token was ever made: the first start makes one.
    pub async fn has_operator_token(&self) -> Result<bool> {
        let any = operator_token::Entity::find().one(self.reader()).await?;
        Ok(any.is_some())
    }

    /// Makes an enrolment token.
    pub async fn create_enrollment_token(
        &self,
        caller: &Caller,
        new: NewEnrollmentToken,
    ) -> Result<EnrollmentTokenRow> {
        check_labels(&new.labels)?;
        let new = &new;
        self.write(|tx| async move {
            let replaces = match &new.replaces_device {
                Some(device) => Some(find_device(&tx.db, device).await?),
                None => None,
            };
            let uses = i32::try_from(new.uses.max(1)).unwrap_or(i32::MAX);
            let row = enrollment_token::Model {
                id: new.id.0,
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

    /// Enrolment tokens, newest first.
    pub async fn list_enrollment_tokens(&self, page: Page) -> Result<Paged<EnrollmentTokenRow>> {
        let mut query = enrollment_token::Entity::find()
            .order_by_desc(enrollment_token::Column::Id)
            .limit(page.limit() + 1);
        if let Some(after) = page.after_id("tokens")? {
            query = query.filter(enrollment_token::Column::Id.lt(after));
        }
        let rows = query.all(self.reader()).await?;
        let paged = Paged::from_surplus(rows, page.limit(), "tokens", |row| {
            row.id.as_bytes().to_vec()
        });
        Ok(paged.map(token_from))
    }

    /// Revokes an enrolment token; devices that used it stay.
    pub async fn revoke_enrollment_token(&self, caller: &Caller, id: TokenId) -> Result<()> {
        self.write(|tx| async move {
            let known = enrollment_token::Entity::find_by_id(id.0)
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

fn token_from(row: enrollment_token::Model) -> EnrollmentTokenRow {
    EnrollmentTokenRow {
        id: TokenId(row.id),
        uses_left: u32::try_from(row.uses_left).unwrap_or(0),
        uses_total: u32::try_from(row.uses_total).unwrap_or(0),
        expires_at: Timestamp(row.expires_at),
        labels: serde_json::from_str(&row.labels).unwrap_or_default(),
        replaces_device: row.replaces_name,
        created_by: row.created_by,
        created_at: Timestamp(row.created_at),
        revoked: row.revoked_at.is_some(),
    }
}
