//! Writes who changed what, in the transaction of the change.

use serde_json::Value;

use crate::store::{
    db::{error::Result, sizes::insert_all, transaction::Tx},
    entity::{audit, stored::Stored},
    read::audit::AuditResult,
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
        token_id: caller.origin.token.map(Stored),
        address: caller.origin.address.map(|address| address.to_string()),
        result: AuditResult::Ok.as_str().to_owned(),
        count: 1,
    };
    insert_all::<audit::Entity>(&tx.db, vec![row], None).await?;
    Ok(())
}
