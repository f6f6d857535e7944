//! The session with the control plane: kept open for as long as the agent lives.
//!
//! First connection, reconnection, restart and failover take one path: connect, authenticate, list
//! the attempts in the journal, send again what is not acknowledged, then wait for messages.

use std::{sync::Arc, time::Duration};

use kernex_proto::{error::chain, service, trust};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    channel::{self, ConnectError},
    clock,
    config::Config,
    disk::Fault,
    host::Host,
    identity::{DeviceKey, Identity, TrustError},
    journal::{Journal, JournalError},
    link::Link,
    revoked::Revoked,
    servers::Servers,
    shared::Shared,
    status::{self, Noted},
};

mod active;
mod device_commands;
mod faulty;
mod handshake;
mod incoming;

use handshake::{HandshakeError, Proof};

/// Why a session ended, or never began.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("no connection")]
    Connect(#[from] ConnectError),
    #[error("no session")]
    Handshake(#[from] HandshakeError),
    #[error("the server ended the session: {code:?}: {message}", code = .0.code(), message = .0.message())]
    Status(Box<tonic::Status>),
    #[error("the server ended the session")]
    Ended,
    #[error("the server asked to come back later")]
    Drained(Duration),
    #[error("nothing was heard from the server for {0:?}")]
    Silent(Duration),
    #[error("the server does not take what is sent")]
    Stuck,
    #[error("downloads fail on it although it lives")]
    Invalidated,
    #[error("the journal failed")]
    Journal(#[from] JournalError),
    #[error("{0}")]
    Faulty(Fault),
    #[error("the state folder is well again")]
    Recovered,
    #[error("it is not known which server to trust")]
    Trust(#[from] TrustError),
}

impl SessionError {
    /// Whether the server said that this device's key is revoked.
    fn revoked(&self) -> Option<Revoked> {
        match self {
            Self::Status(status) | Self::Handshake(HandshakeError::Status(status)) => {
                Revoked::of(status)
            }
            _ => None,
        }
    }

    /// The wait that the server, or the fault, asks for before the next connection.
    fn directed(&self) -> Option<Duration> {
        use tonic_types::StatusExt as _;
        match self {
            Self::Drained(after) => Some(*after),
            Self::Status(status) | Self::Handshake(HandshakeError::Status(status)) => {
                status.get_details_retry_info()?.retry_delay
            }
            // The next session comes at once: it reports the fault, or works again.
            Self::Faulty(_) | Self::Recovered => Some(Duration::ZERO),
            Self::Journal(error) => error.fault().map(|_| Duration::ZERO),
            _ => None,
        }
    }
}

/// The Welcome, and the disk fault that keeps the agent from confirming it.
type Greeting = (handshake::Welcome, Option<Fault>);

pub(crate) struct Sessions {
    pub(crate) servers: Servers,
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) key: DeviceKey,
    pub(crate) journal: Journal,
    pub(crate) shared: Arc<Shared>,
}

impl Sessions {
    /// Keeps sessions that only report the fault of the state folder, until the folder works.
    /// `false` when `stop` came first.
    pub(crate) async fn run_until_disk_works(&mut self, stop: &CancellationToken) -> bool {
        let mut host = Host::new(&self.config.state_dir);
        let mut backoff = Backoff::new(self.config.max_reconnect_wait);
        loop {
            let well = self
                .journal
                .call(|journal| Ok(journal.probe_fault().is_none()));
            if well.await.unwrap_or(false) {
                return true;
            }
            let mut opened = None;
            let end = Box::pin(self.run_session(&mut host, &mut opened, stop)).await;
            let lasted = opened.map_or(Duration::ZERO, |at| clock::since_boot().saturating_sub(at));
            let Err(error) = end else {
                return false;
            };
            let wait = backoff.next(lasted, error.directed(), rand::random());
            self.log_disconnect(&error, lasted, wait);
            if opened.is_none() {
                self.servers.advance();
            }
            if stop
                .run_until_cancelled(tokio::time::sleep(wait))
                .await
                .is_none()
            {
                return false;
            }
        }
    }

    fn log_disconnect(&self, error: &SessionError, lasted: Duration, wait: Duration) {
        if let Some(revoked) = error.revoked() {
            tracing::error!(
                device = %self.identity.device,
                name = self.identity.name,
                "{}; {}",
                revoked.what(),
                revoked.advice(&self.config.state_dir)
            );
        }
        service::status(&format!(
            "not connected to {}: {}",
            self.servers.current(),
            chain(error)
        ));
        tracing::warn!(
            error = error as &dyn std::error::Error,
            server = self.servers.current(),
            lasted_ms = lasted.as_millis(),
            wait_ms = wait.as_millis(),
            "not connected; will connect again"
        );
        let noted = Noted::Closed {
            error: &chain(error),
            next: error
                .revoked()
                .map(|revoked| revoked.advice(&self.config.state_dir)),
            wait,
        };
        status::note(&self.config.state_dir, self.servers.current(), &noted);
    }

    /// Connects again and again until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut host = Host::new(&self.config.state_dir);
        let mut backoff = Backoff::new(self.config.max_reconnect_wait);
        while !stop.is_cancelled() {
            let mut opened = None;
            let end = Box::pin(self.run_session(&mut host, &mut opened, &stop)).await;
            self.shared.link.send_replace(None);
            let lasted = opened.map_or(Duration::ZERO, |at| clock::since_boot().saturating_sub(at));
            let Err(error) = end else {
                return;
            };
            let wait = backoff.next(lasted, error.directed(), rand::random());
            self.log_disconnect(&error, lasted, wait);
            if opened.is_none() {
                self.servers.advance();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One session, from connecting to its end; `Ok` when the agent ended it.
    async fn run_session(
        &mut self,
        host: &mut Host,
        opened: &mut Option<Duration>,
        stop: &CancellationToken,
    ) -> Result<(), SessionError> {
        let opening = self.open();
        let (link, (welcome, fault), streams) = tokio::select! {
            open = opening => open?,
            () = stop.cancelled() => return Ok(()),
        };
        *opened = Some(clock::since_boot());
        tracing::info!(
            device = %self.identity.device,
            session = welcome.epoch,
            server = self.servers.current(),
            "session open"
        );
        service::status(&format!(
            "connected to {} as {}",
            self.servers.current(),
            welcome.device_name
        ));
        let noted = Noted::Open(welcome.epoch);
        status::note(&self.config.state_dir, self.servers.current(), &noted);
        if let Some(fault) = fault {
            return faulty::run(&self.journal, host, &welcome, streams, fault, stop).await;
        }
        self.shared.set_device_name(welcome.device_name.clone());
        self.remember_revision(welcome.protocol_revision);
        self.rotate_trust(&welcome);
        self.remember_time(&welcome);
        let invalidated = link.invalidated.clone();
        self.shared.link.send_replace(Some(link));
        let session = active::Active::new(
            &self.config,
            &self.journal,
            &self.shared,
            host,
            &welcome,
            streams,
        );
        session.run(&invalidated, stop).await
    }

    async fn open(&self) -> Result<(Link, Greeting, handshake::Streams), SessionError> {
        let trust = self.identity.trust()?;
        let (server, proxies) = (self.servers.current(), &self.config.proxies);
        let control_plane = channel::control_plane(server, trust, proxies)?;
        let channel::Connected { channel, binding } = channel::connect(&control_plane).await?;
        let mut streams = handshake::dial(channel::client(channel)).await?;
        let journal = &self.journal;
        let fault = journal.call(|journal| Ok(journal.fault())).await?;
        let proof = Proof {
            identity: &self.identity,
            key: &self.key,
            journal,
            binding,
        };
        let (welcome, fault) = handshake::shake_hands(&mut streams, &proof, fault).await?;
        let link = Link {
            control_plane,
            token: welcome.session_token.clone(),
            device: handshake::metadata(&self.identity.device.to_string())?,
            invalidated: CancellationToken::new(),
        };
        Ok((link, (welcome, fault), streams))
    }

    /// Saves the revision of the protocol: an older one is refused from now on, so that nobody in
    /// between can ask for it.
    fn remember_revision(&mut self, spoken: u32) {
        if spoken <= self.identity.protocol_revision {
            return;
        }
        self.identity.protocol_revision = spoken;
        if let Err(error) = Identity::remember_revision(&self.config.state_dir, spoken) {
            // It holds in this process; the first session after a restart saves it again.
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                error,
                "cannot save which revision of the protocol was spoken"
            );
        }
    }

    /// Saves the newest instant that the server has told, where certificates count by it. Once a
    /// day is enough: they live for weeks.
    fn remember_time(&mut self, welcome: &handshake::Welcome) {
        const DAY: u64 = 24 * 3600;
        let Some(webpki) = &mut self.identity.webpki else {
            return;
        };
        if welcome.server_seconds < webpki.since.saturating_add(DAY) {
            return;
        }
        webpki.since = welcome.server_seconds;
        if let Err(error) = Identity::remember_time(&self.config.state_dir, webpki.since) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "cannot save the newest instant that the server has told"
            );
        }
    }

    /// Accepts a new trust bundle if the CA that is trusted so far signed it.
    fn rotate_trust(&mut self, welcome: &handshake::Welcome) {
        let (bundle, signature) = (&welcome.trust_bundle_pem, &welcome.trust_bundle_signature);
        if signature.is_empty() || *bundle == self.identity.ca_pem {
            return;
        }
        if !trust::rotation_is_signed(&self.identity.ca_pem, bundle, signature) {
            tracing::error!(
                "the server sent a trust bundle that the pinned CA did not sign; ignored"
            );
            return;
        }
        let mut rotated = self.identity.clone();
        rotated.ca_pem.clone_from(bundle);
        match rotated.save(&self.config.state_dir) {
            Ok(()) => {
                tracing::info!("took the server's new trust bundle over");
                self.identity = rotated;
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "cannot save the server's new trust bundle");
            }
        }
    }
}
