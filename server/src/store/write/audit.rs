//! The record of who changed what, in the transaction of the change.

use serde_json::Value;

use crate::store::{
    db::{error::Result, sizes::insert_all, transaction::Tx},
    entity::audit,
    write::replay::Caller,
};

pub(crate) async fn audit(
    tx: &Tx,
    caller: &Caller,
    subject: impl ToString,
    detail: Value,
) -> Result<()> {
    let row = audit::Model {
        id: tx.new_id(),
        at: tx.now.0,
        principal: caller.name.clone(),
        method: caller.method.to_owned(),
        subject: subject.to_string(),
        detail: detail.to_string(),
        request_id: caller.request.map(|request| request.id),
    };
    insert_all::<audit::Entity>(&tx.db, vec![row], None).await?;
    Ok(())
}
