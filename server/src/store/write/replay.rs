//! Changes that are safe to repeat: the same request gets its first answer again.

use kernex_proto::ids::Digest;
use sea_orm::{EntityTrait, sea_query::OnConflict};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::store::{
    db::{
        error::{Result, StoreError},
        sizes::insert_all,
        transaction::Tx,
    },
    entity::request,
};

/// Who changes something: for the audit, and for requests that are repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name on the operator's token.
    pub name: String,
    /// Chosen by the caller; the same one again gets the first answer.
    pub request_id: Option<Uuid>,
    /// The method that was called.
    pub method: &'static str,
}

/// What a request asks for, as a hash to tell a repetition from another request under the same id.
pub(crate) fn body_hash(body: &impl Serialize) -> Digest {
    // Bodies are plain data with text keys, which always serialise.
    Digest::of(&serde_json::to_vec(body).unwrap_or_default())
}

/// The answer this request got before, if it comes again.
pub(crate) async fn replayed<T: DeserializeOwned>(
    tx: &Tx,
    caller: &Caller,
    body: Digest,
) -> Result<Option<T>> {
    let Some(request_id) = caller.request_id else {
        return Ok(None);
    };
    let key = (caller.name.clone(), caller.method.to_owned(), request_id);
    let Some(row) = request::Entity::find_by_id(key).one(&tx.db).await? else {
        return Ok(None);
    };
    if row.body_hash != body.to_string() {
        return Err(StoreError::RequestIdReused);
    }
    let answer = serde_json::from_str(&row.response).map_err(|error| {
        StoreError::Db(sea_orm::DbErr::Json(format!(
            "answer to request {request_id}: {error}"
        )))
    })?;
    Ok(Some(answer))
}

/// Remembers the answer for repetitions.
pub(crate) async fn remember(
    tx: &Tx,
    caller: &Caller,
    body: Digest,
    answer: &impl Serialize,
) -> Result<()> {
    let Some(request_id) = caller.request_id else {
        return Ok(());
    };
    let response =
        serde_json::to_string(answer).map_err(|error| sea_orm::DbErr::Json(error.to_string()))?;
    let row = request::Model {
        principal: caller.name.clone(),
        method: caller.method.to_owned(),
        request_id,
        body_hash: body.to_string(),
        response,
        created_at: tx.now.0,
    };
    // A caller without a replayed answer may still bring an id again; the first answer stays.
    let first_stays = OnConflict::columns([
        request::Column::Principal,
        request::Column::Method,
        request::Column::RequestId,
    ])
    .do_nothing()
    .to_owned();
    insert_all::<request::Entity>(&tx.db, vec![row], Some(first_stays)).await?;
    Ok(())
}
