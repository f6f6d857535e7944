//! Operator tokens and enrolment tokens. Rows have only hashes of their secrets.

use std::collections::BTreeMap;

use kernex_proto::ids::{Digest, TokenId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    clock::Timestamp,
    domain::named_enum,
    store::{
        db::{
            error::Result,
            page::{Page, Paged},
            store::Store,
            values::named,
        },
        entity::{enrollment_token, operator_token},
    },
};

named_enum! {
    /// What an operator may do; each role includes the ones before.
    Role {
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

/// An enrolment token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentTokenRow {
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
                token_id: row.id.0,
                role: named("role", &row.role, Role::parse)?,
                name: row.name,
                expires_at: Timestamp(row.expires_at),
            })
        })
        .transpose()
    }

    /// Whether any operator token was ever made: the first start makes one.
    pub async fn has_operator_token(&self) -> Result<bool> {
        let any = operator_token::Entity::find().one(self.reader()).await?;
        Ok(any.is_some())
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
        let paged = Paged::from_surplus(rows, page.limit(), "tokens", |row| row.id.bytes());
        Ok(paged.map(token_from))
    }
}

pub(crate) fn token_from(row: enrollment_token::Model) -> EnrollmentTokenRow {
    EnrollmentTokenRow {
        id: row.id.0,
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
