//! Notes that a device proved who it is, and was refused.

use kernex_proto::ids::DeviceId;
use sea_orm::EntityTrait;
use serde_json::json;

use crate::{
    domain::device::away::AwayReason,
    store::{
        db::{error::Result, new_event::Subject, store::Store, values::head},
        entity::{device, session, stored::Stored},
        write::device_row::update,
    },
};

/// Most bytes of the reason of a refusal that are kept.
const MAX_DETAIL: usize = 1024;

impl Store {
    /// Shows that a device was refused, and why. Does nothing while it has a session, or when that
    /// is shown already: it tries again and again.
    pub async fn note_refusal(&self, device: DeviceId, why: &str) -> Result<()> {
        let why = &head(why, MAX_DETAIL);
        let is_news = |row: &device::Model| {
            row.away_reason != AwayReason::Refused.as_str() || row.away_detail != *why
        };
        let known = device::Entity::find_by_id(Stored(device))
            .one(self.reader())
            .await?;
        if !known.is_some_and(|row| is_news(&row)) || !self.event_limit().take(device) {
            return Ok(());
        }
        self.write(|tx| async move {
            let here = session::Entity::find_by_id(Stored(device));
            if here.one(&tx.db).await?.is_some() {
                return Ok(());
            }
            let row = device::Entity::find_by_id(Stored(device))
                .one(&tx.db)
                .await?;
            let Some(mut row) = row.filter(is_news) else {
                return Ok(());
            };
            // The device has been away since its last session ended.
            row.away_since = row.away_since.or(Some(tx.now.0));
            row.away_reason = AwayReason::Refused.as_str().to_owned();
            row.away_detail = why.clone();
            let detail =
                json!({ "name": row.name, "reason": AwayReason::Refused.as_str(), "message": why });
            tx.event("device.refused", Subject::Device(device), detail);
            update(&tx, row).await
        })
        .await
    }
}
