//! Operator tokens and enrolment tokens. Rows have only hashes of their secrets.

use std::{collections::BTreeMap, fmt};

use kernex_proto::ids::{Digest, TokenId};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};

use crate::{
    clock::Timestamp,
    domain::named_enum,
    store::{
        db::{
            error::{Result, not_found},
            page::{Page, Paged},
            store::Store,
            values::{clean, parse_name},
        },
        entity::{enrollment_token, operator_token},
        read::scope::{Scope, View},
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
    pub token_id: TokenId,
    /// Who it is for. Changes are signed with it.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// When the token stops working.
    pub expires_at: Timestamp,
}

impl Principal {
    /// What they may see: everything, until tokens belong to tenants.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        Scope::Everything
    }
}

/// The token behind a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownToken {
    Works(Principal),
    /// It works no more.
    Ended(Principal, TokenEnd),
}

/// How an operator token ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenEnd {
    Revoked(Timestamp),
    Expired(Timestamp),
}

/// The rest of a sentence.
impl fmt::Display for TokenEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoked(at) => write!(f, "was revoked at {}", at.to_proto()),
            Self::Expired(at) => write!(f, "expired at {}", at.to_proto()),
        }
    }
}

/// An operator token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorTokenRow {
    pub id: TokenId,
    /// Who it is for.
    pub name: String,
    /// What they may do.
    pub role: Role,
    pub created_by: String,
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    /// The address of its last use; empty before the first.
    pub last_used_from: String,
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
    pub created_by: String,
    pub created_at: Timestamp,
    pub revoked: bool,
}

impl Store {
    /// The holder of a token that works now.
    pub async fn find_principal(&self, hash: Digest) -> Result<Option<Principal>> {
        Ok(match self.find_token(hash).await? {
            Some(KnownToken::Works(principal)) => Some(principal),
            Some(KnownToken::Ended(..)) | None => None,
        })
    }

    /// The token behind a secret, also one that works no more.
    pub async fn find_token(&self, hash: Digest) -> Result<Option<KnownToken>> {
        let row = operator_token::Entity::find()
            .filter(operator_token::Column::Hash.eq(hash.to_string()))
            .one(self.reader())
            .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let end = match row.revoked_at {
            Some(at) => Some(TokenEnd::Revoked(Timestamp(at))),
            None if row.expires_at > self.steady_now().0 => None,
            None => Some(TokenEnd::Expired(Timestamp(row.expires_at))),
        };
        let principal = Principal {
            token_id: row.id.0,
            role: parse_name("role", &row.role, Role::parse)?,
            name: row.name,
            expires_at: Timestamp(row.expires_at),
        };
        Ok(Some(match end {
            None => KnownToken::Works(principal),
            Some(end) => KnownToken::Ended(principal, end),
        }))
    }

    /// Whether any operator token was ever made: the first start makes one.
    pub async fn has_operator_token(&self) -> Result<bool> {
        let any = operator_token::Entity::find().one(self.reader()).await?;
        Ok(any.is_some())
    }
}

impl View {
    /// Operator tokens, newest first, with those that work no more.
    pub async fn list_operator_tokens(&self, page: Page) -> Result<Paged<OperatorTokenRow>> {
        let mut query = self
            .rows::<operator_token::Entity>()
            .order_by_desc(operator_token::Column::Id)
            .limit(page.limit() + 1);
        if let Some(after) = page.after_id("operator_tokens")? {
            query = query.filter(operator_token::Column::Id.lt(after));
        }
        let rows = query.all(self.reader()).await?;
        let list = "operator_tokens";
        let paged = Paged::from_surplus(rows, page.limit(), list, |row| row.id.bytes());
        let items = paged.items.into_iter().map(operator_token_from);
        Ok(Paged {
            items: items.collect::<Result<_>>()?,
            next: paged.next,
        })
    }

    /// The id of an operator token: by that id, or by the name of one that works.
    pub async fn operator_token_id(&self, id_or_name: &str) -> Result<TokenId> {
        if let Ok(id) = id_or_name.parse::<TokenId>() {
            return Ok(id);
        }
        let now = self.store.steady_now();
        let tokens = self.rows();
        let found = working_token(self.reader(), tokens, &clean(id_or_name), now).await?;
        let row = found.ok_or_else(|| not_found("operator token that works", id_or_name))?;
        Ok(row.id.0)
    }

    /// Enrolment tokens, newest first.
    pub async fn list_enrollment_tokens(&self, page: Page) -> Result<Paged<EnrollmentTokenRow>> {
        let mut query = self
            .rows::<enrollment_token::Entity>()
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

/// The one of these operator tokens that has this name and works.
pub(crate) async fn working_token<C: ConnectionTrait>(
    db: &C,
    tokens: Select<operator_token::Entity>,
    name: &str,
    now: Timestamp,
) -> Result<Option<operator_token::Model>> {
    let row = tokens
        .filter(operator_token::Column::Name.eq(name))
        .filter(operator_token::Column::RevokedAt.is_null())
        .filter(operator_token::Column::ExpiresAt.gt(now.0))
        .order_by_desc(operator_token::Column::Id)
        .one(db)
        .await?;
    Ok(row)
}

pub(crate) fn operator_token_from(row: operator_token::Model) -> Result<OperatorTokenRow> {
    Ok(OperatorTokenRow {
        id: row.id.0,
        role: parse_name("role", &row.role, Role::parse)?,
        name: row.name,
        created_by: row.created_by,
        created_at: Timestamp(row.created_at),
        expires_at: Timestamp(row.expires_at),
        revoked_at: row.revoked_at.map(Timestamp),
        last_used_at: row.last_used_at.map(Timestamp),
        last_used_from: row.last_used_from.unwrap_or_default(),
    })
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
