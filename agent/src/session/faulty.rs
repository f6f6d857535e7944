//! The session of an agent that cannot write its state folder. Its heartbeats say how the machine
//! is and what is wrong. It accepts no command, because it could not write one down, and it never
//! confirms its epoch. When the folder works again, another session is opened, which lists what the
//! journal really holds.

use kernex_proto::v1::{
    self, device_session_request::Message, device_session_response::Message as Down,
};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    SessionError,
    active::{LEAST_SILENCE, SEND_TIMEOUT, ticks},
    handshake::{Streams, Welcome},
};
use crate::{clock, disk::Fault, host::Host, journal::Journal};

/// Runs until the folder works or the session ends; `Ok` when `stop` ended it.
pub(super) async fn run(
    journal: &Journal,
    host: &mut Host,
    welcome: &Welcome,
    mut streams: Streams,
    mut fault: Fault,
    stop: &CancellationToken,
) -> Result<(), SessionError> {
    tracing::error!(%fault, "the state folder cannot be used; no commands until it is repaired");
    let mut ticks = ticks(welcome.heartbeat);
    let silence = (welcome.heartbeat * 3).max(LEAST_SILENCE);
    let mut last_received = Instant::now();
    let mut seq = 0;
    loop {
        tokio::select! {
            message = streams.down.message() => {
                let message = message
                    .map_err(|status| SessionError::Status(Box::new(status)))?
                    .ok_or(SessionError::Ended)?;
                last_received = Instant::now();
                if let Some(Down::Drain(drain)) = message.message {
                    let after = std::time::Duration::from_millis(drain.reconnect_after_ms);
                    return Err(SessionError::Drained(after));
                }
            }
            _ = ticks.tick() => {
                // Not with the first heartbeat: a disk that works now and then must not make a
                // session each time.
                if seq > 0 {
                    match journal.call(|journal| Ok(journal.probe_fault())).await? {
                        None => return Err(SessionError::Recovered),
                        Some(now) => fault = now,
                    }
                }
                seq += 1;
                let heartbeat = v1::Heartbeat {
                    seq,
                    vital_signs: Some(host.vital_signs()),
                    device_time: Some(clock::wall()),
                    disk_fault: v1::DiskFault::from(fault).into(),
                    ..v1::Heartbeat::default()
                };
                let message = v1::DeviceSessionRequest {
                    message: Some(Message::Heartbeat(heartbeat)),
                };
                // A closed channel means that the stream ended; reading it says why.
                if timeout(SEND_TIMEOUT, streams.up.send(message)).await.is_err() {
                    return Err(SessionError::Stuck);
                }
            }
            () = sleep_until(last_received + silence) => return Err(SessionError::Silent(silence)),
            () = stop.cancelled() => return Ok(()),
        }
    }
}
