//! Writes who used which token, and who was refused. Nobody waits for it, so it has a transaction
//! beside the others.

use std::net::IpAddr;

use kernex_proto::ids::TokenId;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, sea_query::Expr};
use serde_json::json;

use crate::{
    clock::Timestamp,
    store::{
        db::{
            error::Result,
            sizes::insert_all,
            store::Store,
            values::{clean, signed},
        },
        entity::{audit, operator_token, stored::Stored},
        read::audit::AuditResult,
    },
};

/// The last use of an operator token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenUse {
    pub token: TokenId,
    pub at: Timestamp,
    /// The caller's address.
    pub from: IpAddr,
}

/// What calls that were refused have in common. They are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refused {
    /// Name on the token; empty when nobody was recognised.
    pub principal: String,
    /// The operator token, if it is known.
    pub token: Option<TokenId>,
    pub address: String,
    pub method: &'static str,
    /// What it was about, where the caller may know that.
    pub subject: String,
    pub result: AuditResult,
    /// Why, where the method does not say it.
    pub why: &'static str,
}

/// Refused calls that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub what: Refused,
    /// When the last of them came.
    pub at: Timestamp,
    pub count: u64,
}

impl Store {
    /// Writes uses of tokens and refusals in one transaction.
    pub async fn record_sightings(&self, uses: &[TokenUse], refusals: &[Refusal]) -> Result<()> {
        self.write_beside(|tx| async move {
            for used in uses {
                operator_token::Entity::update_many()
                    .col_expr(operator_token::Column::LastUsedAt, Expr::value(used.at.0))
                    .col_expr(
                        operator_token::Column::LastUsedFrom,
                        Expr::value(used.from.to_string()),
                    )
                    .filter(operator_token::Column::Id.eq(used.token.0))
                    .exec(&tx.db)
                    .await?;
            }
            let rows = refusals.iter().map(|refusal| {
                let what = &refusal.what;
                let detail = match what.why {
                    "" => json!({}),
                    why => json!({ "why": why }),
                };
                audit::Model {
                    id: tx.new_id(),
                    at: refusal.at.0,
                    principal: clean(&what.principal),
                    method: what.method.to_owned(),
                    subject: clean(&what.subject),
                    detail: detail.to_string(),
                    request_id: None,
                    token_id: what.token.map(Stored),
                    address: Some(what.address.clone()),
                    result: what.result.as_str().to_owned(),
                    count: signed(refusal.count),
                }
            });
            insert_all::<audit::Entity>(&tx.db, rows.collect(), None).await
        })
        .await
    }
}
