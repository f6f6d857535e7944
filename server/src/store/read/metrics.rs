//! Sampled heartbeats: the history of the vital signs of a device.

use kernex_proto::v1;
use sea_orm::{ColumnTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    clock::Timestamp,
    store::{
        db::{
            error::Result,
            page::{Page, Paged},
        },
        entity::heartbeat_sample,
        read::{devices::find_device, scope::View, vital_signs},
    },
};

/// One sampled heartbeat.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricSample {
    /// When it was received.
    pub at: Timestamp,
    pub vital_signs: v1::VitalSigns,
}

impl View {
    /// Sampled heartbeats, newest first.
    pub async fn list_metrics(&self, id_or_name: &str, page: Page) -> Result<Paged<MetricSample>> {
        let device = find_device(self.reader(), self.scope, id_or_name).await?;
        let mut query = self
            .rows::<heartbeat_sample::Entity>()
            .filter(heartbeat_sample::Column::DeviceId.eq(device.id))
            .order_by_desc(heartbeat_sample::Column::At)
            .limit(page.limit() + 1);
        if let Some(after) = page.after_instant("metrics")? {
            query = query.filter(heartbeat_sample::Column::At.lt(after));
        }
        let rows = query.all(self.reader()).await?;
        let paged = Paged::from_surplus(rows, page.limit(), "metrics", |row| {
            row.at.to_be_bytes().to_vec()
        });
        Ok(paged.map(|row| MetricSample {
            at: Timestamp(row.at),
            vital_signs: vital_signs::from_sample(&row),
        }))
    }
}
