//! Enrolment: this machine's key becomes a device. Safe to repeat: the same key gets the same
//! device.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kernex_proto::{
    connect::doctor::name_mismatch,
    handshake::{EnrollTranscript, EnrollmentToken, NONCE_LEN, WebPki},
    ids::Digest,
    trust::{PinnedCa, ServerTrust, SystemRoots},
    v1,
};
use prost::bytes::Bytes;
use rand::{Rng as _, rand_core::UnwrapErr, rngs::SysRng};
use tonic::Code;

use crate::{
    channel::{self, CONNECT_TIMEOUT, ConnectError, Connected},
    config::Config,
    host,
    identity::{DeviceKey, Identity},
    journal::{self, JournalError},
    revoked::Revoked,
};

/// Error when no address of a control plane was given.
pub(crate) const NO_SERVER: &str =
    "the address of the control plane is missing; give --server https://HOST:7443";
/// With which key a machine enrols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyChoice {
    /// The one it has, made on the first use.
    Existing,
    /// A new one: the machine becomes a new device.
    New,
}

/// Enrols and writes the identity down.
pub(crate) async fn enroll(
    config: &Config,
    token: &EnrollmentToken,
    with: KeyChoice,
) -> anyhow::Result<Identity> {
    let known = Identity::load(&config.state_dir)?;
    if let Some(known) = known
        .as_ref()
        .filter(|known| known.cluster != token.cluster)
    {
        bail!(
            "this state folder belongs to device {} of cluster {}, the token to cluster {}; use another --state-dir",
            known.name,
            known.cluster,
            token.cluster
        );
    }
    let protocol_revision = known.as_ref().map_or(0, |known| known.protocol_revision);
    let servers = match config.servers.as_slice() {
        [] => vec![known.context(NO_SERVER)?.server],
        configured => configured.to_vec(),
    };
    let key = match with {
        KeyChoice::Existing => load_key(config).await?,
        KeyChoice::New => next_key(config).await?,
    };

    // A server without TLS has no CA to pin, and its tokens carry no pin.
    let plaintext = token.ca_pin == Digest([0; 32]);
    let pinned =
        (!plaintext && token.webpki.is_none()).then(|| PinnedCa::from_fingerprint(token.ca_pin));
    let trust: Option<ServerTrust> = match &token.webpki {
        Some(WebPki { name, since }) => Some(Arc::new(SystemRoots::load_pinned(name, *since)?)),
        None => pinned.clone().map(|pinned| pinned as _),
    };
    let (server, connected) = connect_to_any(servers, trust, config)
        .await
        .map_err(explain_connect)?;
    let response = call(connected.channel, config, token, &key).await?;
    let cluster = response
        .cluster_id
        .parse()
        .context("the server's answer is damaged")?;
    if cluster != token.cluster {
        bail!(
            "the server belongs to cluster {cluster}, the token to cluster {}",
            token.cluster
        );
    }
    let identity = Identity {
        device: response
            .device_id
            .parse()
            .context("the server's answer is damaged")?,
        name: response.device_name,
        server,
        cluster,
        ca_pem: match pinned {
            Some(pinned) => pinned
                .learnt_pem()
                .context("the connection was not verified")?,
            None => String::new(),
        },
        webpki: token.webpki.clone(),
        protocol_revision,
    };
    match with {
        KeyChoice::Existing => identity.save(&config.state_dir)?,
        KeyChoice::New => identity.begin_anew(&config.state_dir)?,
    }
    tracing::info!(device = %identity.device, name = identity.name, "enrolled");
    Ok(identity)
}

/// Connects to the first of these addresses where that works; gives that address, too. The error is
/// that of the last one.
async fn connect_to_any(
    servers: Vec<String>,
    trust: Option<ServerTrust>,
    config: &Config,
) -> Result<(String, Connected), ConnectError> {
    let mut left = servers.len();
    let mut servers = servers.into_iter();
    loop {
        let server = servers.next().unwrap_or_default();
        left = left.saturating_sub(1);
        let connected = async {
            let control_plane = channel::control_plane(&server, trust.clone(), &config.proxies)?;
            channel::connect(&control_plane).await
        };
        match connected.await {
            Ok(connected) => return Ok((server, connected)),
            Err(error) if left == 0 => return Err(error),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(server, error, "cannot enrol there; trying the next address");
            }
        }
    }
}

/// The device key, made on the first use.
pub(crate) async fn load_key(config: &Config) -> anyhow::Result<DeviceKey> {
    let state_dir = config.state_dir.clone();
    let loaded = tokio::task::spawn_blocking(move || DeviceKey::load_or_generate(&state_dir));
    Ok(loaded.await??)
}

/// The key that will replace the current one. Refused while an agent uses that.
async fn next_key(config: &Config) -> anyhow::Result<DeviceKey> {
    let state_dir = config.state_dir.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        let journal = state_dir.join("journal.redb");
        if let Err(error @ JournalError::InUse(_)) = journal::attempts(&journal) {
            return Err(anyhow::Error::new(error).context("stop the agent first"));
        }
        Ok(DeviceKey::load_or_generate_next(&state_dir)?)
    });
    loaded.await?
}

async fn call(
    connected: tonic::transport::Channel,
    config: &Config,
    token: &EnrollmentToken,
    key: &DeviceKey,
) -> anyhow::Result<v1::EnrollResponse> {
    let mut nonce = [0; NONCE_LEN];
    UnwrapErr(SysRng).fill_bytes(&mut nonce);
    let transcript = EnrollTranscript {
        cluster: token.cluster,
        token: token.id,
        key: key.digest(),
        nonce: &nonce,
    };
    let request = v1::EnrollRequest {
        token_id: token.id.to_string(),
        token_secret: URL_SAFE_NO_PAD.encode(token.secret),
        public_key: Bytes::copy_from_slice(key.public_der()),
        device_name: config.name.clone().unwrap_or_default(),
        nonce: Bytes::copy_from_slice(&nonce),
        signature: key
            .sign(transcript.bytes())
            .await
            .context("cannot sign")?
            .into(),
        inventory: Some(host::inventory()),
    };
    let mut client = channel::client(connected);
    match tokio::time::timeout(CONNECT_TIMEOUT * 3, client.enroll(request)).await {
        Err(_) => bail!("the server did not answer within 30 s; try again"),
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(explain(&status, config)),
    }
}

/// The error, with what to do next.
fn explain(status: &tonic::Status, config: &Config) -> anyhow::Error {
    let message = status.message();
    if let Some(cause) = Revoked::of(status) {
        return anyhow::anyhow!("{message}; {}", cause.advice(&config.state_dir));
    }
    match status.code() {
        Code::Unauthenticated => anyhow::anyhow!(
            "the server refused the token ({message}); it may be used up, expired or revoked: make a new one with \
             `kernexctl enrollment create`"
        ),
        Code::AlreadyExists => anyhow::anyhow!(
            "{message}; choose another --name, or make a token that takes the device over with \
             `kernexctl enrollment create --replace NAME`"
        ),
        code => anyhow::anyhow!("the server refused the enrolment: {code:?}: {message}"),
    }
}

fn explain_connect(err: ConnectError) -> anyhow::Error {
    let mismatch = match &err {
        ConnectError::Dial(_, dial) => name_mismatch(dial),
        _ => None,
    };
    let context = match mismatch {
        Some(mismatch) => format!(
            "cannot enrol: {mismatch}; use one of its names, or start the server with `--public-address` for this one"
        ),
        None => "cannot enrol; is the address right, and was the token made by this control plane?"
            .to_owned(),
    };
    anyhow::Error::new(err).context(context)
}
