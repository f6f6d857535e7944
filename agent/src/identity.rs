//! Who this device is: its RSA-4096 key, which is made here and never leaves, and what enrolment
//! returned.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kernex_proto::{
    handshake::{DEVICE_KEY_BITS, WebPki},
    ids::{ClusterId, DeviceId, Digest},
    trust::{Dates, PinnedCa, ServerTrust, SystemRoots, SystemRootsError},
};
use rand::rngs::SysRng;
use rsa::{
    PrivateKey,
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding},
    pss::SigningKey,
    sha2::Sha256,
    signature::{RandomizedSigner as _, SignatureEncoding as _},
    traits::PublicKeyParts as _,
};
use serde::{Deserialize, Serialize};

use crate::{
    config::{DEVICE_FILE, state_dir_flag},
    durable,
};

/// The device's key, in the state folder.
const KEY: &str = "device.key";
/// The key that will replace it.
const NEXT_KEY: &str = "device.key.next";

/// Why the identity could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot access {path}", path = .0.display())]
    Io(PathBuf, #[source] io::Error),
    #[error("{path} is not an RSA-{DEVICE_KEY_BITS} key in PKCS#8 PEM", path = .0.display())]
    BadKey(PathBuf),
    #[error("{path} is damaged", path = .0.display())]
    BadDevice(PathBuf, #[source] serde_json::Error),
    /// This device enrolled, and the key that proves it is not there.
    #[error("the key of this device is gone: there is no {shown}, and device.json says it is enrolled as {name}", shown = .path.display())]
    KeyGone { path: PathBuf, name: String },
    /// The key could not be generated or encoded.
    #[error("cannot make a device key")]
    Key(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl IdentityError {
    /// What an operator can do about it; `None` where the cause says it.
    pub(crate) fn next_step(&self) -> Option<String> {
        let (Self::Io(path, _)
        | Self::BadKey(path)
        | Self::BadDevice(path, _)
        | Self::KeyGone { path, .. }) = self
        else {
            return None;
        };
        let state_dir = path.parent()?;
        let folder = state_dir_flag(state_dir);
        let lost = |name: &str| {
            format!(
                "Put the file back from a backup. If there is none, give this device a new key: \
                 `kernex-agent enroll --new-key --token-file FILE{folder}`, with a token from \
                 `kernexctl enrollment create --replace {name}`."
            )
        };
        match self {
            Self::KeyGone { name, .. } => Some(lost(name)),
            Self::BadKey(_) => {
                let identity = Identity::load(state_dir).ok().flatten();
                Some(lost(
                    &identity.map_or_else(|| "NAME".to_owned(), |it| it.name),
                ))
            }
            Self::BadDevice(..) => Some(format!(
                "Put the file back from a backup, or move it away and run `kernex-agent enroll --server URL --token-file \
                 FILE{folder}`: with its key this machine becomes the same device again."
            )),
            Self::Io(..) | Self::Key(_) => None,
        }
    }
}

/// Whether what is in the state folder proves who this device is. All is well, too, where nothing
/// is enrolled yet.
pub(crate) fn check(state_dir: &Path) -> Result<(), IdentityError> {
    match (
        Identity::load(state_dir)?,
        DeviceKey::load(&state_dir.join(KEY))?,
    ) {
        (Some(identity), None) => Err(identity.without_key(state_dir)),
        _ => Ok(()),
    }
}

/// Why it cannot be told which server to trust.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("the pinned CA in device.json cannot be read")]
    BadCa,
    #[error(transparent)]
    Roots(#[from] SystemRootsError),
}

/// The device's key pair. Signs; is never used to decrypt.
#[derive(Clone)]
pub struct DeviceKey {
    signer: Arc<SigningKey<Sha256>>,
    public_der: Arc<[u8]>,
    digest: Digest,
}

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DeviceKey").field(&self.digest).finish()
    }
}

impl DeviceKey {
    /// Reads the key of a state folder. Where none is and no device is enrolled, makes one: the
    /// server would not know a new key of an enrolled device. Takes seconds; not for the event
    /// loop.
    pub fn load_or_generate(state_dir: &Path) -> Result<Self, IdentityError> {
        if let Some(key) = Self::load(&state_dir.join(KEY))? {
            return Ok(key);
        }
        match Identity::load(state_dir)? {
            Some(enrolled) => Err(enrolled.without_key(state_dir)),
            None => Self::generate(state_dir, KEY),
        }
    }

    /// The key that will replace the current one, made when there is none, see
    /// [`Identity::begin_anew`].
    pub(crate) fn load_or_generate_next(state_dir: &Path) -> Result<Self, IdentityError> {
        match Self::load(&state_dir.join(NEXT_KEY))? {
            Some(key) => Ok(key),
            None => Self::generate(state_dir, NEXT_KEY),
        }
    }

    fn generate(state_dir: &Path, name: &str) -> Result<Self, IdentityError> {
        let path = state_dir.join(name);
        durable::create_dir(state_dir)
            .map_err(|err| IdentityError::Io(state_dir.to_owned(), err))?;
        tracing::info!(path = %path.display(), "making a device key");
        let private = PrivateKey::new(&mut SysRng, DEVICE_KEY_BITS)
            .map_err(|err| IdentityError::Key(err.into()))?;
        let pem = private
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|err| IdentityError::Key(err.into()))?;
        match durable::create(&path, pem.as_bytes()) {
            // Another process was faster: its key is the device's.
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                Self::load(&path)?.ok_or(IdentityError::BadKey(path))
            }
            Err(err) => Err(IdentityError::Io(path, err)),
            Ok(()) => Self::from_private(private),
        }
    }

    fn load(path: &Path) -> Result<Option<Self>, IdentityError> {
        let pem = match fs::read_to_string(path) {
            Ok(pem) => pem,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(IdentityError::Io(path.to_owned(), err)),
        };
        let private = PrivateKey::from_pkcs8_pem(&pem)
            .ok()
            .filter(|key| key.size() * 8 == DEVICE_KEY_BITS)
            .ok_or_else(|| IdentityError::BadKey(path.to_owned()))?;
        Self::from_private(private).map(Some)
    }

    fn from_private(private: PrivateKey) -> Result<Self, IdentityError> {
        let public_der = private
            .to_public_key()
            .to_public_key_der()
            .map_err(|err| IdentityError::Key(err.into()))?;
        Ok(Self {
            digest: Digest::of(public_der.as_bytes()),
            public_der: public_der.as_bytes().into(),
            signer: Arc::new(SigningKey::new(private)),
        })
    }

    /// The public key, SPKI DER.
    #[must_use]
    pub fn public_der(&self) -> &[u8] {
        &self.public_der
    }

    /// SHA-256 of the public key.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Signs a transcript (RSASSA-PSS, SHA-256) on a blocking thread: the arithmetic takes tens of
    /// milliseconds.
    pub async fn sign(&self, transcript: Vec<u8>) -> io::Result<Vec<u8>> {
        let signer = Arc::clone(&self.signer);
        tokio::task::spawn_blocking(move || {
            signer
                .try_sign_with_rng(&mut SysRng, &transcript)
                .map(|signature| signature.to_vec())
                .map_err(io::Error::other)
        })
        .await
        .map_err(io::Error::other)?
    }
}

/// What enrolment returned; `device.json` in the state folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub device: DeviceId,
    /// Its name when it enrolled.
    pub name: String,
    /// Address of the control plane.
    pub server: String,
    pub cluster: ClusterId,
    /// CA certificates to trust, PEM; empty when the server runs without TLS, and with `webpki`.
    pub ca_pem: String,
    /// How the server is known instead, when the enrolment token said so. `since` is the newest
    /// instant that the server has told.
    pub webpki: Option<WebPki>,
    /// Newest revision of the session protocol that was spoken with it; an older one is refused
    /// from then on. 0 before the first session.
    pub protocol_revision: u32,
}

#[derive(Serialize, Deserialize)]
struct WebPkiFile {
    name: String,
    since: u64,
}

#[derive(Serialize, Deserialize)]
struct DeviceFile {
    id: String,
    name: String,
    server: String,
    cluster: String,
    ca: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    webpki: Option<WebPkiFile>,
    // Older agents wrote none.
    #[serde(default)]
    protocol_revision: u32,
}

impl Identity {
    fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(DEVICE_FILE)
    }

    fn without_key(self, state_dir: &Path) -> IdentityError {
        IdentityError::KeyGone {
            path: state_dir.join(KEY),
            name: self.name,
        }
    }

    /// Reads it; `None` before the first enrolment.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = Self::path(state_dir);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(IdentityError::Io(path, err)),
        };
        let bad = |err| IdentityError::BadDevice(path.clone(), err);
        let file: DeviceFile = serde_json::from_slice(&bytes).map_err(bad)?;
        let custom = |err| bad(<serde_json::Error as serde::de::Error>::custom(err));
        Ok(Some(Self {
            device: file.id.parse().map_err(custom)?,
            cluster: file.cluster.parse().map_err(custom)?,
            name: file.name,
            server: file.server,
            ca_pem: file.ca,
            webpki: file.webpki.map(|file| WebPki {
                name: file.name,
                since: file.since,
            }),
            protocol_revision: file.protocol_revision,
        }))
    }

    /// Writes down which revision of the protocol was spoken and changes nothing else.
    pub(crate) fn remember_revision(state_dir: &Path, spoken: u32) -> Result<(), IdentityError> {
        let Some(mut stored) = Self::load(state_dir)? else {
            return Ok(());
        };
        stored.protocol_revision = spoken;
        stored.save(state_dir)
    }

    /// Writes down the newest instant that the server has told and changes nothing else.
    pub(crate) fn remember_time(state_dir: &Path, since: u64) -> Result<(), IdentityError> {
        let Some(mut stored) = Self::load(state_dir)? else {
            return Ok(());
        };
        let Some(webpki) = &mut stored.webpki else {
            return Ok(());
        };
        webpki.since = webpki.since.max(since);
        stored.save(state_dir)
    }

    /// How the server's certificate is verified; `None` without TLS. With `webpki` this reads the
    /// authorities of this machine from files.
    pub(crate) fn trust(&self) -> Result<Option<ServerTrust>, TrustError> {
        if let Some(WebPki { name, since }) = &self.webpki {
            let roots = SystemRoots::load_pinned(name, *since)?;
            return Ok(Some(Arc::new(roots)));
        }
        match self.ca_pem.as_str() {
            "" => Ok(None),
            pem => match PinnedCa::from_pem(pem, Dates::Ignored) {
                Some(pinned) => Ok(Some(pinned)),
                None => Err(TrustError::BadCa),
            },
        }
    }

    /// Writes the file in one step: after a crash it is the old one or the new one.
    pub fn save(&self, state_dir: &Path) -> Result<(), IdentityError> {
        let path = Self::path(state_dir);
        let file = DeviceFile {
            id: self.device.to_string(),
            name: self.name.clone(),
            server: self.server.clone(),
            cluster: self.cluster.to_string(),
            ca: self.ca_pem.clone(),
            webpki: self.webpki.as_ref().map(|webpki| WebPkiFile {
                name: webpki.name.clone(),
                since: webpki.since,
            }),
            protocol_revision: self.protocol_revision,
        };
        let mut json = serde_json::to_vec_pretty(&file)
            .map_err(|err| IdentityError::BadDevice(path.clone(), err))?;
        json.push(b'\n');
        durable::replace(&path, &json).map_err(|err| IdentityError::Io(path, err))
    }
}

impl Identity {
    /// Replaces the current identity by this one, with the next key. The journal is set aside,
    /// because it is about another device. After a crash in the middle this is repeated with the
    /// same next key, and so becomes the same device.
    pub(crate) fn begin_anew(&self, state_dir: &Path) -> Result<(), IdentityError> {
        let rename = |from: PathBuf, to: PathBuf| match fs::rename(&from, &to) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(err) => Err(IdentityError::Io(from, err)),
            Ok(()) => Ok(()),
        };
        if let Some(before) = Self::load(state_dir)?.filter(|before| before.device != self.device) {
            let aside = format!("journal.redb.of-{}", before.device);
            rename(state_dir.join("journal.redb"), state_dir.join(aside))?;
        }
        self.save(state_dir)?;
        // Last: as long as the next key exists, all of this can be repeated.
        rename(state_dir.join(NEXT_KEY), state_dir.join(KEY))?;
        durable::sync_dir(state_dir).map_err(|err| IdentityError::Io(state_dir.to_owned(), err))
    }
}

#[cfg(test)]
mod tests;
