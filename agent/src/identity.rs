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

use crate::durable;

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
    #[error("{path} is damaged; enrol again to write it anew", path = .0.display())]
    BadDevice(PathBuf, #[source] serde_json::Error),
    /// The key could not be generated or encoded.
    #[error("cannot make a device key")]
    Key(#[source] Box<dyn std::error::Error + Send + Sync>),
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
    /// Reads the key of a state folder, making one first when there is none. Takes seconds; not for
    /// the event loop.
    pub fn load_or_generate(state_dir: &Path) -> Result<Self, IdentityError> {
        Self::load_or_generate_as(state_dir, KEY)
    }

    /// The same for the key that will replace the current one, see [`Identity::begin_anew`].
    pub(crate) fn load_or_generate_next(state_dir: &Path) -> Result<Self, IdentityError> {
        Self::load_or_generate_as(state_dir, NEXT_KEY)
    }

    fn load_or_generate_as(state_dir: &Path, name: &str) -> Result<Self, IdentityError> {
        let path = state_dir.join(name);
        if let Some(key) = Self::load(&path)? {
            return Ok(key);
        }
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
        state_dir.join("device.json")
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
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn the_key_is_made_once_and_its_signatures_verify_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let key = DeviceKey::load_or_generate(dir.path()).unwrap();
        let again = DeviceKey::load_or_generate(dir.path()).unwrap();
        assert_eq!(key.digest(), again.digest());
        let mode = fs::metadata(dir.path().join("device.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        let signature = again.sign(b"transcript".to_vec()).await.unwrap();
        let verifier = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::RSA_PSS_2048_8192_SHA256,
            key.public_der(),
        );
        verifier.verify(b"transcript", &signature).unwrap();
        assert!(verifier.verify(b"transcripT", &signature).is_err());
    }

    #[test]
    fn a_damaged_key_is_reported_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.key");
        fs::write(&path, "nonsense").unwrap();
        let err = DeviceKey::load_or_generate(dir.path()).unwrap_err();
        assert!(matches!(err, IdentityError::BadKey(_)), "{err}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
    }

    #[test]
    fn the_identity_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), None);
        let identity = Identity {
            device: DeviceId::generate(),
            name: "edge-1".into(),
            server: "https://localhost:7443".into(),
            cluster: ClusterId::generate(),
            ca_pem: "pem".into(),
            webpki: None,
            protocol_revision: 2,
        };
        identity.save(dir.path()).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), Some(identity.clone()));

        // As an older agent wrote it.
        let path = Identity::path(dir.path());
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace(",\n  \"protocol_revision\": 2", "");
        fs::write(&path, text).unwrap();
        let expected = Identity {
            protocol_revision: 0,
            ..identity
        };
        assert_eq!(Identity::load(dir.path()).unwrap(), Some(expected));
    }

    #[test]
    fn the_newest_instant_told_only_grows() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity {
            device: DeviceId::generate(),
            name: "edge-1".into(),
            server: "https://kernex.example:7443".into(),
            cluster: ClusterId::generate(),
            ca_pem: String::new(),
            webpki: Some(WebPki {
                name: "kernex.example".into(),
                since: 100,
            }),
            protocol_revision: 2,
        };
        identity.save(dir.path()).unwrap();
        let since = |told| {
            Identity::remember_time(dir.path(), told).unwrap();
            let stored = Identity::load(dir.path()).unwrap().unwrap();
            stored.webpki.unwrap().since
        };
        assert_eq!([since(300), since(200)], [300, 300]);
    }
}
