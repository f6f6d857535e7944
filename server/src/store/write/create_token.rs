//! Making operator tokens and enrolment tokens.

use std::{collections::BTreeMap, time::Duration};

use kernex_proto::ids::{Digest, TokenId};
use serde_json::json;

use crate::{
    clock::Timestamp,
    store::{
        db::{error::Result, sizes::insert_all, store::Store},
        entity::{enrollment_token, operator_token, stored::Stored},
        read::{
            devices::find_device,
            tokens::{EnrollmentTokenRow, Role, token_from},
        },
        write::{audit::audit, label_device::check_labels, replay::Caller},
    },
};

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

impl Store {
    pub async fn create_operator_token(
        &self,
        caller: &Caller,
        new: NewOperatorToken,
    ) -> Result<OperatorToken> {
        let new = &new;
        self.write(|tx| async move {
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
