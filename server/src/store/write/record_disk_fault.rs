//! Records what is wrong with the disks of agents' state folders.

use kernex_proto::ids::DeviceId;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, sea_query::Expr};
use serde_json::json;

use crate::{
    domain::device::DiskFault,
    store::{
        db::{error::Result, new_event::Subject, store::Store, values::signed},
        entity::{device, stored::Stored},
    },
};

impl Store {
    /// Records the fault of a device's disk, or that there is none any more, and tells watchers. An
    /// older session changes nothing.
    pub async fn record_disk_fault(
        &self,
        id: DeviceId,
        epoch: u64,
        fault: Option<DiskFault>,
    ) -> Result<()> {
        self.write(|tx| async move {
            let row = device::Entity::find_by_id(Stored(id))
                .filter(device::Column::Epoch.eq(signed(epoch)))
                .one(&tx.db)
                .await?;
            let fault = fault.map(DiskFault::as_str);
            let Some(row) = row.filter(|row| row.disk_fault.as_deref() != fault) else {
                return Ok(());
            };
            device::Entity::update_many()
                .col_expr(
                    device::Column::DiskFault,
                    Expr::value(fault.map(str::to_owned)),
                )
                .filter(device::Column::Id.eq(id.0))
                .exec(&tx.db)
                .await?;
            let (kind, what) = match fault {
                Some(fault) => (
                    "device.disk_fault",
                    json!({ "name": row.name, "fault": format!("state_dir: {fault}") }),
                ),
                None => ("device.disk_recovered", json!({ "name": row.name })),
            };
            if self.event_limit().take(id) {
                tx.event(kind, Subject::Device(id), what);
            }
            Ok(())
        })
        .await
    }
}
