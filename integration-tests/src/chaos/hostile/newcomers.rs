//! Those who come for the first time while an attack goes on: an operator, and a device that
//! enrols, opens a session and has its key revoked. Each has an address of its own, as the fleet
//! has. Whoever refuses them fails.

use std::{sync::Arc, time::Duration, vec::IntoIter};

use kernex_proto::{
    PROTOCOL_REVISION,
    handshake::EnrollmentToken,
    ids::JournalId,
    v1::{
        CreateEnrollmentTokenRequest, DeleteDeviceRequest, EnrollResponse, WhoAmIRequest,
        WhoAmIResponse,
    },
};
use rsa::PrivateKey;
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};
use tonic::Code;

use super::{honest::HonestFleet, soon};
use crate::{
    Operator, TestServer,
    chaos::Failure,
    fleet::{Connector, WireError},
    keys,
    raw_agent::{RawIdentity, WireSession, enroll_request},
};

const WHO_AM_I: &str = "/kernex.v1.AccessService/WhoAmI";
const ENROLL: &str = "/kernex.v1.AgentService/Enroll";

/// Number of the first newcomer, far from those of the fleet and of the attackers.
const FIRST: usize = 400_000;

pub(super) struct Newcomers {
    server: Arc<TestServer>,
    connector: Connector,
    /// A revoked key never comes back.
    keys: IntoIter<PrivateKey>,
    came: usize,
}

impl Newcomers {
    /// So many may come.
    pub(super) fn new(honest: &HonestFleet, count: usize) -> Self {
        Self {
            server: Arc::clone(&honest.server),
            connector: honest.connector.clone(),
            keys: block_in_place(|| keys::derived(count)).into_iter(),
            came: 0,
        }
    }

    /// The next one, who comes after `pause`: an operator calls and a device enrols, opens a
    /// session, and is deleted. Says how long its session went on after that.
    pub(super) fn next(
        &mut self,
        pause: Duration,
    ) -> Result<impl Future<Output = Result<Duration, Failure>> + use<>, Failure> {
        let key = self.keys.next();
        let key = key.ok_or_else(|| Failure::new("there are no keys for newcomers left"))?;
        let newcomer = Newcomer {
            number: FIRST + self.came,
            name: format!("newcomer-{}", self.came),
            connector: self.connector.clone(),
            operator: self.server.operator(),
            admin: self.server.admin_token(),
        };
        self.came += 1;
        Ok(async move {
            sleep(pause).await;
            let came = async {
                newcomer.calls().await?;
                let device = newcomer.enrols(key).await?;
                newcomer.opens_a_session_and_is_deleted(&device).await
            };
            let came = soon("a newcomer", came).await?;
            came.map_err(|error| Failure::new(format!("a newcomer was refused: {error:?}")))
        })
    }
}

struct Newcomer {
    number: usize,
    name: String,
    connector: Connector,
    operator: Operator,
    admin: String,
}

impl Newcomer {
    /// An operator's first call, on a connection of its own.
    async fn calls(&self) -> Result<(), WireError> {
        let mut wire = self.connector.connect(self.number).await?;
        let calls = wire.calls.clone();
        let asking = async {
            let bearer = [("authorization", format!("Bearer {}", self.admin))];
            let (mut sender, mut receiver) = calls.open(WHO_AM_I, &bearer).await?;
            sender.send(&WhoAmIRequest {})?;
            sender.finish()?;
            let answer = receiver.next::<WhoAmIResponse>().await?;
            answer.map(drop).ok_or(WireError::NotGrpc("no answer"))
        };
        wire.during(asking).await
    }

    async fn enrols(&self, key: PrivateKey) -> Result<RawIdentity, WireError> {
        let request = CreateEnrollmentTokenRequest::default();
        let mut access = self.operator.access();
        let made = access.create_enrollment_token(request).await?.into_inner();
        let token: EnrollmentToken = made
            .text
            .parse()
            .map_err(|_| WireError::NotGrpc("the text of a token"))?;
        let request = block_in_place(|| enroll_request(&token, &key, &self.name));
        let mut wire = self.connector.connect(self.number).await?;
        let calls = wire.calls.clone();
        let enrolling = async {
            let (mut sender, mut receiver) = calls.open(ENROLL, &[]).await?;
            sender.send(&request)?;
            sender.finish()?;
            let answer = receiver.next::<EnrollResponse>().await?;
            answer.ok_or(WireError::NotGrpc("no answer"))
        };
        let answer = wire.during(enrolling).await?;
        let id = |_| WireError::NotGrpc("an id");
        Ok(RawIdentity {
            device: answer.device_id.parse().map_err(id)?,
            name: answer.device_name,
            cluster: answer.cluster_id.parse().map_err(id)?,
            key,
            journal: JournalId::generate(),
            last_epoch: 0,
            protocol_revision: PROTOCOL_REVISION,
        })
    }

    async fn opens_a_session_and_is_deleted(
        &self,
        device: &RawIdentity,
    ) -> Result<Duration, WireError> {
        let mut wire = self.connector.connect(self.number).await?;
        let (calls, binding) = (wire.calls.clone(), wire.binding);
        let living = async {
            let mut session = WireSession::open(&calls, &binding, device).await?;
            session.heartbeat(1).await?;
            let request = DeleteDeviceRequest {
                device: self.name.clone(),
                ..DeleteDeviceRequest::default()
            };
            self.operator.devices().delete_device(request).await?;
            let deleted = Instant::now();
            // Nothing but the end may come.
            match session.next_where(|_| None::<()>).await {
                Err(WireError::Status(status)) if status.code() == Code::Unauthenticated => {
                    Ok(deleted.elapsed())
                }
                other => other.map(|()| Duration::ZERO),
            }
        };
        wire.during(living).await
    }
}
