//! A session over a connection of the test's own, whose windows and address it decides about.

use kernex_proto::{
    handshake::ChannelBinding,
    v1::{
        DeviceSessionRequest, DeviceSessionResponse, Heartbeat, Ready, VitalSigns, Welcome,
        device_session_request as up, device_session_response as down,
    },
};
use tokio::task::block_in_place;
use tonic::Status;

use super::RawIdentity;
use crate::fleet::{Calls, Receiver, Sender, WireError};

const SESSION: &str = "/kernex.v1.AgentService/DeviceSession";

#[derive(Debug)]
pub struct WireSession {
    /// The server's `Welcome`.
    pub welcome: Welcome,
    up: Sender,
    down: Receiver,
}

impl WireSession {
    /// Opens a session of a device. The connection has to be driven meanwhile.
    pub async fn open(
        calls: &Calls,
        binding: &ChannelBinding,
        device: &RawIdentity,
    ) -> Result<Self, WireError> {
        let (up, down) = calls.open(SESSION, &[]).await?;
        let mut session = Self {
            welcome: Welcome::default(),
            up,
            down,
        };
        let challenge = session.next_where(|message| match message {
            down::Message::Challenge(challenge) => Some(challenge),
            _ => None,
        });
        let challenge = challenge.await?;
        let hello = block_in_place(|| device.answer(&challenge, binding));
        session.say(up::Message::Hello(hello))?;
        let welcome = session.next_where(|message| match message {
            down::Message::Welcome(welcome) => Some(welcome),
            _ => None,
        });
        session.welcome = welcome.await?;
        let epoch = session.welcome.epoch;
        session.say(up::Message::Ready(Ready { epoch }))?;
        Ok(session)
    }

    pub fn say(&mut self, message: up::Message) -> Result<(), WireError> {
        self.up.send(&DeviceSessionRequest {
            message: Some(message),
        })
    }

    /// Sends a heartbeat, and does not wait for the answer.
    pub fn beat(&mut self, seq: u64) -> Result<(), WireError> {
        self.say(up::Message::Heartbeat(Heartbeat {
            seq,
            vital_signs: Some(VitalSigns::default()),
            ..Heartbeat::default()
        }))
    }

    /// Sends a heartbeat and waits until the server has it.
    pub async fn heartbeat(&mut self, seq: u64) -> Result<(), WireError> {
        self.beat(seq)?;
        self.next_where(|message| match message {
            down::Message::HeartbeatAck(ack) => (ack.seq == seq).then_some(()),
            _ => None,
        })
        .await
    }

    /// The next message that `pick` takes; others are passed over.
    pub async fn next_where<T>(
        &mut self,
        pick: impl Fn(down::Message) -> Option<T>,
    ) -> Result<T, WireError> {
        loop {
            let next = self.down.next::<DeviceSessionResponse>().await?;
            let next = next.ok_or_else(|| Status::unavailable("the session has ended"))?;
            if let Some(picked) = next.message.and_then(&pick) {
                return Ok(picked);
            }
        }
    }
}
