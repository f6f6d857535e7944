//! What downloads need of an open session: where the server is, and the session's credential.

use std::num::NonZeroU64;

use kernex_proto::{
    DEVICE_ID_KEY, SESSION_TOKEN_KEY, connect::ControlPlane, telemetry,
    v1::agent_service_client::AgentServiceClient,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
};

use crate::channel::{self, BulkError, Calls, ConnectError};

/// Address, token and device id of an open session.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) control_plane: ControlPlane,
    pub(crate) token: MetadataValue<Ascii>,
    pub(crate) device: MetadataValue<Ascii>,
    /// Cancelled when the server refuses the token of a session that is still open.
    pub(crate) invalidated: CancellationToken,
}

impl Link {
    /// A connection for one download; see [`channel::connect_bulk`].
    pub(crate) async fn connect_bulk(
        &self,
        limit: Option<NonZeroU64>,
    ) -> Result<
        (
            AgentServiceClient<Calls>,
            impl Future<Output = BulkError> + use<>,
        ),
        ConnectError,
    > {
        channel::connect_bulk(&self.control_plane, limit).await
    }

    /// Ends the session: the server refuses its token although the session is open. The next one
    /// has another token.
    pub(crate) fn invalidate(&self) {
        self.invalidated.cancel();
    }

    /// A request authorised by the session.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(SESSION_TOKEN_KEY, self.token.clone());
        metadata.insert(DEVICE_ID_KEY, self.device.clone());
        telemetry::inject(metadata);
        request
    }
}
