//! Records what a device says about its configuration.

use kernex_proto::{ids::DeviceId, v1};
use sea_orm::{ActiveModelTrait, EntityTrait, IntoActiveModel};
use serde_json::json;

use crate::store::{
    db::{
        error::Result,
        new_event::Subject,
        store::Store,
        values::{clean, signed},
    },
    entity::{device_configuration, stored::Stored},
};

impl Store {
    /// Keeps what a device said about its configuration in the session of this number, unless the
    /// key of that session is revoked.
    pub async fn configured(
        &self,
        device: DeviceId,
        epoch: u64,
        answer: &v1::Configured,
    ) -> Result<()> {
        self.write(|tx| async move {
            let silenced = self.silenced(&tx, [Stored(device)]).await?;
            if silenced
                .get(&Stored(device))
                .is_some_and(|newest| epoch <= *newest)
            {
                return Ok(());
            }
            let row = device_configuration::Entity::find_by_id(Stored(device));
            let Some(mut row) = row.one(&tx.db).await? else {
                return Ok(());
            };
            let news = row.active_revision != signed(answer.active_revision);
            row.active_revision = signed(answer.active_revision);
            row.answered_at = Some(tx.now.0);
            let kind = if answer.applied {
                "configuration.applied"
            } else {
                row.refused_revision = signed(answer.revision);
                let refusal = clean(&answer.refusal);
                row.refusal = refusal[..refusal.floor_char_boundary(1024)].to_owned();
                "configuration.refused"
            };
            if (news || !answer.applied) && self.event_limit().take(device) {
                let detail = json!({ "revision": answer.revision, "refusal": row.refusal });
                tx.event(kind, Subject::Device(device), detail);
            }
            row.into_active_model().reset_all().update(&tx.db).await?;
            Ok(())
        })
        .await
    }
}
