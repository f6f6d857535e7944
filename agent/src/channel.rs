//! Connections to the control plane.
//!
//! A session has one HTTP/2 connection and ends with it: nothing below the session connects again.
//! Only the server pings; the session notices a silent server by its own heartbeats. A download has
//! a connection of its own while it lasts, so that no message of the session waits behind a bundle.

use std::{num::NonZeroU64, time::Duration};

use kernex_proto::{
    connect::{AddressError, Connection, ControlPlane, DialError, proxy::Proxies},
    handshake::ChannelBinding,
    trust::ServerTrust,
    v1::agent_service_client::AgentServiceClient,
};
use tonic::transport::Channel;

pub(crate) use self::bulk::{BulkError, Calls};

mod bulk;
mod pace;

/// How long connecting may take, TLS included; also the deadline of each step of a handshake.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Enough for commands and acknowledgements; bundles use other connections.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// A chunk of a bundle and what surrounds it; also bounds a command.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Address(AddressError),
    /// The device enrolled with TLS and the address is without it, or the other way round.
    #[error("{0}")]
    Mismatch(&'static str),
    /// Could not connect or did not trust the other side.
    #[error("cannot connect to {0}")]
    Dial(String, #[source] DialError),
    /// The other side does not speak HTTP/2.
    #[error("cannot connect to {0}")]
    Transport(String, #[source] tonic::transport::Error),
    /// The same, on the connection of a download.
    #[error("cannot connect to {0}")]
    Bulk(String, #[source] BulkError),
    #[error("{0} did not answer within 10 s")]
    Timeout(String),
}

#[derive(Debug)]
pub(crate) struct Connected {
    /// A channel over this connection and no other.
    pub(crate) channel: Channel,
    /// Both ends compute it from this connection. The signature of a session covers it.
    pub(crate) binding: ChannelBinding,
}

/// Where the control plane is and which CA to trust. Without `trust` the address must be plaintext;
/// with it, TLS.
pub(crate) fn control_plane(
    server: &str,
    trust: Option<ServerTrust>,
    proxies: &Proxies,
) -> Result<ControlPlane, ConnectError> {
    let control_plane = ControlPlane::verified_by(server, trust, CONNECT_TIMEOUT);
    let control_plane = control_plane.map_err(|error| match error {
        AddressError::NoTls(_) => ConnectError::Mismatch(
            "this device enrolled over TLS; the address must start with https://",
        ),
        AddressError::NoCa(_) => ConnectError::Mismatch(
            "this device enrolled without TLS, so it knows no CA; the address must start with http://",
        ),
        other => ConnectError::Address(other),
    })?;
    Ok(control_plane.through(proxies))
}

pub(crate) async fn connect(control_plane: &ControlPlane) -> Result<Connected, ConnectError> {
    let server = || control_plane.address().to_owned();
    let connection = dial(control_plane).await?;
    let binding = connection.binding;
    let endpoint = control_plane
        .endpoint()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let channel = tokio::time::timeout(CONNECT_TIMEOUT, connection.into_channel(&endpoint))
        .await
        .map_err(|_| ConnectError::Timeout(server()))?
        .map_err(|error| ConnectError::Transport(server(), error))?;
    Ok(Connected { channel, binding })
}

/// A connection for one download: a client, and the future that does the work of the connection,
/// which is closed with it. `limit` is the most bytes a second.
pub(crate) async fn connect_bulk(
    control_plane: &ControlPlane,
    limit: Option<NonZeroU64>,
) -> Result<
    (
        AgentServiceClient<Calls>,
        impl Future<Output = BulkError> + use<>,
    ),
    ConnectError,
> {
    let server = || control_plane.address().to_owned();
    let connection = dial(control_plane).await?;
    let origin = control_plane.origin().clone();
    let started = tokio::time::timeout(CONNECT_TIMEOUT, bulk::start(connection.io, origin, limit));
    started
        .await
        .map_err(|_| ConnectError::Timeout(server()))?
        .map_err(|error| ConnectError::Bulk(server(), error))
}

async fn dial(control_plane: &ControlPlane) -> Result<Connection, ConnectError> {
    let server = || control_plane.address().to_owned();
    control_plane.dial().await.map_err(|error| match error {
        DialError::TooSlow(_) => ConnectError::Timeout(server()),
        other => ConnectError::Dial(server(), other),
    })
}

/// A client with limits, over a connection.
pub(crate) fn client(channel: Channel) -> AgentServiceClient<Channel> {
    AgentServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

#[cfg(test)]
mod tests {
    use kernex_proto::trust::PinnedCa;

    use super::*;

    fn control_plane(
        server: &str,
        trust: Option<ServerTrust>,
    ) -> Result<ControlPlane, ConnectError> {
        super::control_plane(server, trust, &Proxies::default())
    }

    #[test]
    fn an_address_that_would_skip_tls_is_refused() {
        let trust: ServerTrust = PinnedCa::from_fingerprint(kernex_proto::ids::Digest([1; 32]));
        for (server, trust) in [
            ("http://localhost:1", Some(trust)),
            ("https://localhost:1", None),
        ] {
            let err = control_plane(server, trust).unwrap_err();
            assert!(matches!(err, ConnectError::Mismatch(_)), "{err}");
        }
        let err = control_plane("localhost", None).unwrap_err();
        assert!(matches!(err, ConnectError::Address(_)), "{err}");
    }

    #[tokio::test]
    async fn a_token_without_a_pin_leads_to_no_other_machine() {
        let remote = control_plane("http://192.0.2.1:7443", None).unwrap();
        let err = connect(&remote).await.unwrap_err();
        assert!(
            matches!(err, ConnectError::Dial(_, DialError::Plaintext(_))),
            "{err}"
        );
    }
}
