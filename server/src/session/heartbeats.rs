//! What follows from a heartbeat: an answer at once, a row for the recorder, and a note when the
//! disk is faulty.

use kernex_proto::v1::{self, device_session_response::Message as Down};

use super::{Sessions, limits};
use crate::{
    crash::Act, delivery::registry::SessionHandle, domain::device::DiskFault, error::chain,
    store::HeartbeatRow,
};

impl Sessions {
    /// Answers a heartbeat, keeps what it says, and notes a fault of the disk.
    pub(super) async fn record_heartbeat(
        &self,
        session: &SessionHandle,
        seq: u64,
        row: Box<v1::Heartbeat>,
    ) {
        let fault = DiskFault::try_from(row.disk_fault()).ok();
        self.answer_heartbeat(session, seq, *row);
        self.record_disk_fault(session, fault).await;
    }

    /// Answers a heartbeat and keeps what it says.
    pub(super) fn answer_heartbeat(&self, session: &SessionHandle, seq: u64, row: v1::Heartbeat) {
        Act::AckHeartbeat.before();
        session.send(Down::HeartbeatAck(v1::HeartbeatAck { seq }));
        Act::AckHeartbeat.after();
        // An agent with a faulty disk cannot tell what runs, so its list is not compared.
        let is_well = row.disk_fault == 0;
        let said = row.releases.len();
        let releases = limits::releases(row.releases);
        if releases.is_none() {
            self.metrics.sessions.count_beyond_limit("releases");
            tracing::debug!(device = %session.device, releases = said, "a heartbeat names more releases than any device has, or none that can be; they are not looked at");
        }
        self.recorder.heartbeat(HeartbeatRow {
            device: session.device,
            epoch: session.epoch,
            vital_signs: row.vital_signs.unwrap_or_default(),
            releases: releases.filter(|_| is_well),
            leftovers: row.leftovers,
        });
    }

    /// Notes what is wrong with the disk of the agent's state folder.
    pub(super) async fn record_disk_fault(
        &self,
        session: &SessionHandle,
        fault: Option<DiskFault>,
    ) {
        let (device, epoch) = (session.device, session.epoch);
        match self.store.record_disk_fault(device, epoch, fault).await {
            Ok(()) => {
                session.set_disk_fault(fault);
                match fault {
                    Some(fault) => {
                        tracing::warn!(%fault, "the state folder of the device is not well")
                    }
                    None => tracing::info!("the state folder of the device is well again"),
                }
            }
            // The next heartbeat says it again.
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the state of a device's disk was not recorded");
            }
        }
    }
}
