//! Enrolment: a token lets a key be bound to a device, once.

use std::{collections::BTreeMap, net::IpAddr};

use kernex_proto::{
    ids::{DeviceId, Digest, TokenId},
    v1,
};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, sea_query::Expr};
use serde_json::json;

use crate::{
    crash::Act,
    domain::device::away::AwayReason,
    revocations::Cause,
    store::{
        db::{
            error::{Result, StoreError},
            new_event::Subject,
            sizes::insert_all,
            store::Store,
            transaction::{Deciding, Tx},
            values::clean,
        },
        entity::{
            device, device_key, device_label, enrollment_token, heartbeat, session, stored::Stored,
        },
        read::{
            device_keys::{RevokedKey, revoked_key},
            scope::Scope,
        },
        write::{
            audit::audit,
            copies,
            device_row::{self, described},
            join::join_deployments,
            replay::{Caller, Origin},
            revoke::revoke_keys,
        },
    },
};

/// A device that has proved to hold its key and asks to be enrolled.
#[derive(Debug, Clone)]
pub struct EnrollDevice {
    pub token: TokenId,
    /// Hash of the token's secret.
    pub secret_hash: Digest,
    /// Public key, SPKI DER.
    pub key_der: Vec<u8>,
    /// SHA-256 of `key_der`.
    pub key: Digest,
    /// The name it asks for; checked already.
    pub name: String,
    /// What its machine is.
    pub inventory: v1::Inventory,
    /// The address it calls from.
    pub address: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    pub device: DeviceId,
    /// An older name when the key was bound before.
    pub name: String,
}

/// Why a key was not bound.
#[derive(Debug, thiserror::Error)]
pub enum BindKeyError {
    /// The token or the key is not accepted. The text is for the log; callers only learn that it
    /// failed.
    #[error("not authenticated: {0}")]
    NotAuthenticated(&'static str),
    /// The token works no more. The caller has its secret, so it may know. The text is the rest of
    /// a sentence.
    #[error("the enrolment token {0}")]
    TokenEnded(&'static str),
    /// The key was revoked. The caller has proved to hold it, so it may know.
    #[error("the key is revoked: its device `{device_name}` was {because}", because = .cause.as_str())]
    KeyRevoked {
        cause: Cause,
        /// Name of the device that had the key.
        device_name: String,
    },
    /// Another device has the name.
    #[error("the device name `{0}` is held by another key")]
    NameTaken(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Decision = Result<Enrolled, BindKeyError>;

impl Store {
    /// Binds a key to a device. A key that is bound already gets its device again, and uses up
    /// nothing of the token.
    pub async fn enroll(&self, new: EnrollDevice) -> Result<Enrolled, BindKeyError> {
        let new = &new;
        self.decide_as(Act::CommitEnroll, |tx| async move {
            match decide_enrolment(&tx, new).await {
                // A refusal is an answer and not a failure of the transaction. Nothing was written
                // before it.
                Err(BindKeyError::Store(error)) => Err(error),
                decision => Ok(decision),
            }
        })
        .await?
    }
}

async fn decide_enrolment(tx: &Deciding, new: &EnrollDevice) -> Decision {
    let known = known_key(tx, new.key).await?;
    if let Some(revoked) = known.clone().filter(|key| key.revoked_at.is_some()) {
        // Said before the token is looked at, because another token would not help.
        return Err(match revoked_key(revoked)? {
            Some(RevokedKey {
                cause, device_name, ..
            }) => BindKeyError::KeyRevoked { cause, device_name },
            None => BindKeyError::NotAuthenticated("the key is revoked"),
        });
    }
    let token = enrollment_token::Entity::find_by_id(Stored(new.token))
        .one(&tx.db)
        .await
        .map_err(StoreError::from)?;
    let token = token.ok_or(BindKeyError::NotAuthenticated("no such token"))?;
    if token.secret_hash != new.secret_hash.to_string() {
        return Err(BindKeyError::NotAuthenticated("wrong secret"));
    }
    if token.revoked_at.is_some() {
        return Err(BindKeyError::TokenEnded("was revoked"));
    }
    if token.expires_at <= tx.now.0 {
        return Err(BindKeyError::TokenEnded("has expired"));
    }
    if let Some(key) = known {
        return known_device(tx, key).await;
    }
    if token.uses_left <= 0 {
        return Err(BindKeyError::TokenEnded("is used up"));
    }
    let enrolled = match token.replaces_id {
        Some(device) => take_over(tx, new, device).await?,
        None => add_device(tx, new, &token).await?,
    };
    bind_key(tx, new, Stored(enrolled.device)).await?;
    enrollment_token::Entity::update_many()
        .col_expr(
            enrollment_token::Column::UsesLeft,
            Expr::value(token.uses_left - 1),
        )
        .filter(enrollment_token::Column::Id.eq(token.id))
        .exec(&tx.db)
        .await
        .map_err(StoreError::from)?;
    let agent = Caller {
        name: format!("token {}", new.token),
        scope: Scope::Everything,
        request: None,
        method: "Enroll",
        origin: Origin {
            token: None,
            address: new.address,
        },
    };
    let detail = json!({ "name": enrolled.name, "key": new.key.to_string(), "replaces": token.replaces_name });
    audit(tx, &agent, enrolled.device, detail).await?;
    let detail = agent.made(json!({ "name": enrolled.name, "replaces": token.replaces_name }));
    tx.event("device.enrolled", Subject::Device(enrolled.device), detail);
    join_deployments(tx, &[enrolled.device]).await?;
    Ok(enrolled)
}

async fn known_key(tx: &Tx, key: Digest) -> Result<Option<device_key::Model>> {
    Ok(device_key::Entity::find_by_id(key.to_string())
        .one(&tx.db)
        .await?)
}

async fn known_device(tx: &Tx, key: device_key::Model) -> Decision {
    let device = device::Entity::find_by_id(key.device_id)
        .one(&tx.db)
        .await
        .map_err(StoreError::from)?;
    let device = device.ok_or(BindKeyError::NotAuthenticated("the key's device is gone"))?;
    Ok(Enrolled {
        device: device.id.0,
        name: device.name,
    })
}

/// Gives a machine that was set up anew the device that it was. The device keeps its history. Its
/// old key is revoked and its session ends.
async fn take_over(tx: &Tx, new: &EnrollDevice, id: Stored<DeviceId>) -> Decision {
    let device = device::Entity::find_by_id(id)
        .one(&tx.db)
        .await
        .map_err(StoreError::from)?;
    let device = device.ok_or(BindKeyError::NotAuthenticated(
        "the device to replace is gone",
    ))?;
    revoke_keys(tx, &device, Cause::Replaced).await?;
    session::Entity::delete_by_id(id)
        .exec(&tx.db)
        .await
        .map_err(StoreError::from)?;
    let mut row = described(device.clone(), &new.inventory);
    row.revision += 1;
    // Reports of the old session that are not written yet are refused from now on.
    row.epoch += 1;
    heartbeat::Entity::update_many()
        .col_expr(heartbeat::Column::Epoch, Expr::value(row.epoch))
        .filter(heartbeat::Column::DeviceId.eq(id))
        .exec(&tx.db)
        .await
        .map_err(StoreError::from)?;
    copies::forget_copies(tx, &mut row).await?;
    row.away_since = Some(tx.now.0);
    row.away_reason = AwayReason::Revoked.as_str().to_owned();
    row.away_detail = "another key took the device over".to_owned();
    device_row::update(tx, row).await?;
    Ok(Enrolled {
        device: id.0,
        name: device.name,
    })
}

async fn add_device(tx: &Tx, new: &EnrollDevice, token: &enrollment_token::Model) -> Decision {
    let taken = device::Entity::find()
        .filter(device::Column::Name.eq(&new.name))
        .one(&tx.db)
        .await
        .map_err(StoreError::from)?;
    if taken.is_some() {
        return Err(BindKeyError::NameTaken(new.name.clone()));
    }
    let id = DeviceId(tx.new_id());
    let row = device::Model {
        id: Stored(id),
        name: clean(&new.name),
        created_at: tx.now.0,
        revision: 1,
        epoch: 0,
        confirmed_epoch: 0,
        generation: 0,
        conflicted: false,
        conflict: String::new(),
        protocol_revision: 0,
        journal_id: None,
        last_seen: None,
        agent_version: String::new(),
        boot_id: String::new(),
        os: String::new(),
        arch: String::new(),
        hostname: String::new(),
        kernel: String::new(),
        cpu_count: 0,
        memory_bytes: 0,
        disk_fault: None,
        away_since: None,
        away_reason: String::new(),
        away_detail: String::new(),
    };
    insert_all::<device::Entity>(&tx.db, vec![described(row, &new.inventory)], None).await?;
    let labels: BTreeMap<String, String> = serde_json::from_str(&token.labels).unwrap_or_default();
    let labels = labels.into_iter().map(|(key, value)| device_label::Model {
        device_id: Stored(id),
        key,
        value,
    });
    insert_all::<device_label::Entity>(&tx.db, labels.collect(), None).await?;
    Ok(Enrolled {
        device: id,
        name: new.name.clone(),
    })
}

async fn bind_key(tx: &Tx, new: &EnrollDevice, device: Stored<DeviceId>) -> Result<()> {
    let row = device_key::Model {
        digest: new.key.to_string(),
        device_id: device,
        der: new.key_der.clone(),
        created_at: tx.now.0,
        revoked_at: None,
        revoked_because: None,
        device_name: None,
        revoked_epoch: None,
        revocation: None,
    };
    insert_all::<device_key::Entity>(&tx.db, vec![row], None).await?;
    Ok(())
}
