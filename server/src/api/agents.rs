//! `AgentService`: how devices get in, stay connected, and fetch bundles.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kernex_proto::{
    DEVICE_ID_KEY, SESSION_TOKEN_KEY,
    handshake::ChannelBinding,
    ids::{DeviceId, Digest},
    v1::{
        DeviceSessionRequest, DownloadBundleRequest, DownloadBundleResponse, EnrollRequest,
        EnrollResponse, agent_service_server::AgentService,
    },
};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};
use tracing::Span;

use super::{Api, raw_body, wire::fields::id};
use crate::{
    edge::{
        answers::EndedBy,
        auth::RefusedEnrolment,
        connections::{ConnectionHandle, Credential, Peer},
    },
    enrollment::{self, EnrollmentError},
    error::{busy, invalid, unauthenticated},
    revocations::{Cause, Hold, Revocable},
    session::{self, Outbound},
    store::{AuditResult, DownloadError},
};

/// Most enrolments at a time. They have permits of their own, so that a flood of handshakes cannot
/// keep devices from enrolling.
pub(crate) const ENROLMENTS: usize = 32;
/// How long an enrolment waits for its permit before it is told to come back.
const ENROLMENT_WAIT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Agents(pub(super) Arc<Api>);

#[tonic::async_trait]
impl AgentService for Agents {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let connection = connection(&request);
        connection.may_try(Credential::Enrolment)?;
        let turn = timeout(ENROLMENT_WAIT, self.0.enrolments.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(busy(
                "too many devices enrol at once",
                Duration::from_secs(2),
            ));
        };
        let request = request.into_inner();
        let token = request.token_id.clone();
        let enrolled = enrollment::enroll(
            &self.0.sessions.store,
            self.0.settings.cluster,
            request,
            connection.ip(),
        )
        .await;
        match &enrolled {
            Ok(_) => connection.mark_known(),
            Err(error) => {
                if is_guess(error) {
                    connection.failed(Credential::Enrolment);
                }
                if let Some(refused) = refused(error, &token) {
                    let authenticator = &self.0.authenticator;
                    authenticator.refused_enrolment(refused, connection.ip());
                }
            }
        }
        Ok(Response::new(enrolled?))
    }

    type DeviceSessionStream = Outbound;

    async fn device_session(
        &self,
        request: Request<Streaming<DeviceSessionRequest>>,
    ) -> Result<Response<Outbound>, Status> {
        let peer = request.extensions().get::<Peer>();
        // Without a peer, a signature over a TLS connection does not verify.
        let binding = peer.map_or(ChannelBinding::PLAINTEXT, |peer| peer.binding);
        let connection = connection(&request);
        connection.may_try(Credential::Hello)?;
        // The agent's call returns only once it sees headers, so the answer starts before anything
        // is received.
        let (outbound, line) = session::outbound();
        let span = tracing::info_span!(
            parent: None,
            "session",
            device = tracing::field::Empty,
            session = tracing::field::Empty,
        );
        let sessions = Arc::clone(&self.0.sessions);
        let session = sessions.run(request.into_inner(), line, connection, binding, span);
        self.0.tasks.spawn(Span::none(), session);
        Ok(Response::new(outbound))
    }

    type DownloadBundleStream = raw_body::NeverPolled<DownloadBundleResponse>;

    async fn download_bundle(
        &self,
        request: Request<DownloadBundleRequest>,
    ) -> Result<Response<Self::DownloadBundleStream>, Status> {
        let connection = connection(&request);
        let (device, token) = credentials(request.metadata()).ok_or_else(unauthenticated)?;
        connection.may_try(Credential::Bearer)?;
        let DownloadBundleRequest { digest, offset } = request.into_inner();
        let digest = id("digest", &digest)?;
        // Taken before the query, so that no revocation falls between the two.
        let revocations = self.0.sessions.store.revocations();
        let hold = revocations.hold(Revocable::Device(device));
        let bundle = self
            .0
            .sessions
            .store
            .authorise_download(device, token, digest)
            .await;
        match &bundle {
            Err(DownloadError::Unauthenticated) => connection.failed(Credential::Bearer),
            Err(DownloadError::Store(_)) => {}
            // The token was right, so the caller is known even where the download is refused.
            Ok(_) | Err(DownloadError::NotATarget | DownloadError::Gone) => connection.mark_known(),
        }
        let bundle = bundle?;
        if offset > bundle.size {
            return Err(invalid("offset", "it is beyond the end of the bundle"));
        }
        tracing::debug!(%device, %digest, offset, "download begins");
        let bytes = self.0.blobs.read(digest, offset).await?;
        // Ends the call even when the peer reads nothing.
        let ended_by = EndedBy {
            signal: hold.signal(),
            status: unauthenticated(),
            lease: None,
        };
        let bytes = while_held(bytes.map_err(Status::from), hold);
        let down = self.0.metrics.edge.bundle_bytes.with_label("down");
        let mut answer = raw_body::answer(bytes, down);
        answer.extensions_mut().insert(ended_by);
        Ok(answer)
    }
}

/// Ends the stream as unauthenticated once the keys of its device are revoked.
fn while_held(
    pieces: impl Stream<Item = Result<Bytes, Status>> + Send,
    hold: Hold,
) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    async_stream::stream! {
        let mut pieces = pin!(pieces);
        loop {
            let piece = tokio::select! {
                biased;
                () = hold.revoked() => Some(Err(unauthenticated())),
                piece = pieces.next() => piece,
            };
            let Some(piece) = piece else {
                return;
            };
            let is_last = piece.is_err();
            yield piece;
            if is_last {
                return;
            }
        }
    }
}

/// Whether whoever guesses tokens is refused so.
const fn is_guess(error: &EnrollmentError) -> bool {
    matches!(
        error,
        EnrollmentError::NotAuthenticated(_) | EnrollmentError::TokenEnded(_)
    )
}

/// What the audit says of a refusal; none where nothing was tried, or where the server failed.
/// `token` was checked for its form only.
fn refused(error: &EnrollmentError, token: &str) -> Option<RefusedEnrolment> {
    let stranger = |result, why| RefusedEnrolment {
        token: None,
        device_name: String::new(),
        result,
        why,
    };
    let holder = |refused| RefusedEnrolment {
        token: token.parse().ok(),
        ..refused
    };
    Some(match error {
        EnrollmentError::NotAuthenticated(why) => stranger(AuditResult::Unauthenticated, *why),
        EnrollmentError::TokenEnded(why) => holder(stranger(AuditResult::Unauthenticated, *why)),
        EnrollmentError::KeyRevoked { cause, device_name } => RefusedEnrolment {
            device_name: device_name.clone(),
            ..stranger(
                AuditResult::Denied,
                match cause {
                    Cause::Deleted => "the device of this key was deleted",
                    Cause::Replaced => "another key took over the device of this key",
                },
            )
        },
        EnrollmentError::NameTaken(name) => RefusedEnrolment {
            device_name: name.clone(),
            ..holder(stranger(
                AuditResult::Denied,
                "another key holds the device name",
            ))
        },
        EnrollmentError::Malformed { .. } | EnrollmentError::Store(_) => return None,
    })
}

/// The connection that the call came on.
fn connection<T>(request: &Request<T>) -> ConnectionHandle {
    let connection = request.extensions().get::<ConnectionHandle>();
    connection.cloned().unwrap_or_default()
}

/// The device, and the hash of its session token.
fn credentials(metadata: &MetadataMap) -> Option<(DeviceId, Digest)> {
    let text = |key| metadata.get(key)?.to_str().ok();
    let device = text(DEVICE_ID_KEY)?.parse().ok()?;
    let token = text(SESSION_TOKEN_KEY)?;
    Some((device, Digest::of(token.as_bytes())))
}
