//! The connection to the control plane.
//!
//! One HTTP/2 connection carries the session and the downloads. Only the server pings; a silent server is noticed by the
//! session's own heartbeats.

use std::{sync::Arc, time::Duration};

use kernex_proto::v1::agent_service_client::AgentServiceClient;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::tls::PinnedCa;

/// How long connecting may take, TLS included; also the deadline of each step of a handshake.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A stream's window is smaller than the connection's, so that a slow disk never keeps the session waiting.
/// Windows are promises, not memory: what they cost is what arrives faster than it is written.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// A chunk of a bundle in one frame instead of sixteen.
const FRAME: u32 = 256 * 1024;
/// A chunk of a bundle and what surrounds it; also bounds a command.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The address is not one.
    #[error("`{0}` is not an address like https://kernex.example.com:7443")]
    BadAddress(String),
    /// TLS was promised at enrolment and would now be skipped, or the other way round.
    #[error("{0}")]
    Mismatch(&'static str),
    /// Could not connect or did not trust the other side.
    #[error("cannot connect to {0}")]
    Transport(String, #[source] tonic::transport::Error),
    /// Nothing came in time.
    #[error("{0} did not answer within 10 s")]
    Timeout(String),
}

/// Connects. Without `trust` the address must be plaintext, with it it must be TLS.
pub(crate) async fn connect(
    server: &str,
    trust: Option<Arc<PinnedCa>>,
) -> Result<Channel, ConnectError> {
    let bad = || ConnectError::BadAddress(server.to_owned());
    let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|_| bad())?;
    let host = endpoint.uri().host().ok_or_else(bad)?.to_owned();
    let endpoint = match (endpoint.uri().scheme_str(), trust) {
        (Some("https"), Some(trust)) => {
            // Brackets belong to the address of an IPv6 host, not to its name.
            let name = host.trim_start_matches('[').trim_end_matches(']');
            let tls = ClientTlsConfig::new().domain_name(name);
            endpoint
                .tls_config_with_verifier(tls, trust)
                .map_err(|err| ConnectError::Transport(server.to_owned(), err))?
        }
        (Some("http"), None) => endpoint,
        (Some("http"), Some(_)) => {
            return Err(ConnectError::Mismatch(
                "this device enrolled over TLS; the address must start with https://",
            ));
        }
        (Some("https"), None) => {
            return Err(ConnectError::Mismatch(
                "this device enrolled without TLS, so it knows no CA; the address must start with http://",
            ));
        }
        _ => return Err(bad()),
    };
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME);
    tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect())
        .await
        .map_err(|_| ConnectError::Timeout(server.to_owned()))?
        .map_err(|err| ConnectError::Transport(server.to_owned(), err))
}

/// A client with limits, over a connection.
pub(crate) fn client(channel: Channel) -> AgentServiceClient<Channel> {
    AgentServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_would_skip_tls_is_refused() {
        let trust = PinnedCa::from_fingerprint(kernex_proto::ids::Digest([1; 32]));
        for (server, trust) in [
            ("http://localhost:1", Some(trust)),
            ("https://localhost:1", None),
        ] {
            let err = connect(server, trust).await.unwrap_err();
            assert!(matches!(err, ConnectError::Mismatch(_)), "{err}");
        }
        let err = connect("localhost", None).await.unwrap_err();
        assert!(matches!(err, ConnectError::BadAddress(_)), "{err}");
    }
}
