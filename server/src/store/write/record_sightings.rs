//! Writes who used which token, and who was refused. Nobody waits for it, so it has a transaction
//! beside the others.

use std::net::IpAddr;

use kernex_proto::ids::TokenId;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, sea_query::Expr};

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

/// Refused calls that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Name on the token; empty when nobody was recognised.
    pub principal: String,
    /// The operator token, if it is known.
    pub token: Option<TokenId>,
    pub address: String,
    pub method: &'static str,
    pub result: AuditResult,
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
            let rows = refusals.iter().map(|refusal| audit::Model {
                id: tx.new_id(),
                at: refusal.at.0,
                principal: clean(&refusal.principal),
                method: refusal.method.to_owned(),
                subject: String::new(),
                detail: "{}".to_owned(),
                request_id: None,
                token_id: refusal.token.map(Stored),
                address: Some(refusal.address.clone()),
                result: refusal.result.as_str().to_owned(),
                count: signed(refusal.count),
            });
            insert_all::<audit::Entity>(&tx.db, rows.collect(), None).await
        })
        .await
    }
}
