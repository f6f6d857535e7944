//! Events of the fleet.

use kernex_proto::v1;

use crate::store::EventRow;

impl From<EventRow> for v1::Event {
    fn from(event: EventRow) -> Self {
        let device = event.device.map(|device| device.to_string());
        let deployment = event.deployment.map(|deployment| deployment.to_string());
        Self {
            cursor: event.cursor,
            at: Some(event.at.to_proto()),
            kind: event.kind,
            device_id: device.unwrap_or_default(),
            deployment_id: deployment.unwrap_or_default(),
            detail_json: event.detail_json,
        }
    }
}
