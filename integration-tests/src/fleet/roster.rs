//! Who the agents of a fleet are, and the few keys they share.
//!
//! RSA-4096 keys are dear to make, so a fleet has a handful. The server knows a device by the
//! digest its key row carries and signs nothing itself: a roster enrols one device for each key in
//! the ordinary way and copies the rows of those, under ids and digests of their own, straight into
//! the database. A proof costs the same as ever, because it is one.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{RSA_PSS_SHA256, RsaKeyPair},
};
use bytes::Bytes;
use kernex_proto::{
    handshake::{
        ChannelBinding, ReadHello, SessionTranscript, SessionTranscriptV1, agreed_revision,
    },
    ids::{DeviceId, Digest, JournalId},
    v1::{Challenge, Hello},
};
use rsa::{
    PrivateKey,
    pkcs8::{EncodePrivateKey as _, EncodePublicKey as _},
};

use crate::{TestServer, keys};

mod rows;

/// The label of every device of a fleet.
pub const LABEL: (&str, &str) = ("fleet", "light");

/// How many keys a fleet shares.
const KEYS: usize = 8;

/// What the version of a light agent starts with; the number of its key follows.
const VERSION: &str = "0.0.0-light.";

/// The shared keys.
pub struct Pool(Vec<(RsaKeyPair, Vec<u8>)>);

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.0.len()).finish()
    }
}

impl Pool {
    fn new<'a>(keys: impl IntoIterator<Item = &'a PrivateKey>) -> Self {
        let pair = |key: &PrivateKey| {
            let private = key.to_pkcs8_der().expect("a key can be written");
            let public = key.to_public_key().to_public_key_der();
            let public = public.expect("a key can be written").into_vec();
            let pair = RsaKeyPair::from_pkcs8(private.as_bytes()).expect("the key is good");
            (pair, public)
        };
        Self(keys.into_iter().map(pair).collect())
    }

    /// The pool kept beside the build output, without a server.
    #[must_use]
    pub fn kept() -> Self {
        let keys: Vec<_> = (0..KEYS).map(keys::key).collect();
        Self::new(&keys)
    }

    /// The public key a light agent of this version signs for, SPKI DER.
    #[must_use]
    pub fn public_key(&self, version: &str) -> Option<&[u8]> {
        let number: usize = version.strip_prefix(VERSION)?.parse().ok()?;
        self.0.get(number).map(|(_, public)| public.as_slice())
    }

    pub(super) fn version(key: usize) -> String {
        format!("{VERSION}{key}")
    }

    /// A Hello, signed as the server's revision asks for.
    pub(super) fn signed_hello(
        &self,
        identity: &Identity,
        challenge: &Challenge,
        binding: &ChannelBinding,
        hello: Hello,
    ) -> Option<Hello> {
        let cluster = challenge.cluster_id.parse().ok()?;
        let announced = challenge.protocol_revision;
        if agreed_revision(hello.protocol_revision, announced) == 1 {
            let transcript = SessionTranscriptV1 {
                cluster,
                server_nonce: &challenge.server_nonce,
                client_nonce: &hello.client_nonce,
                device: identity.device,
                key: identity.digest,
                boot_id: &hello.boot_id,
                journal: identity.journal,
            };
            let signature = self.sign(identity, &transcript.bytes())?;
            return Some(Hello { signature, ..hello });
        }
        let body = ReadHello::body_of(&hello);
        let transcript = SessionTranscript {
            cluster,
            server_nonce: &challenge.server_nonce,
            client_nonce: &hello.client_nonce,
            binding,
            key: identity.digest,
            body: &body,
        };
        let signature = self.sign(identity, &transcript.bytes())?;
        Some(ReadHello::sealed(body, signature))
    }

    fn sign(&self, identity: &Identity, transcript: &[u8]) -> Option<Bytes> {
        let (pair, _) = self.0.get(identity.key)?;
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(
            &RSA_PSS_SHA256,
            &SystemRandom::new(),
            transcript,
            &mut signature,
        )
        .ok()?;
        Some(signature.into())
    }
}

/// One device of a fleet.
#[derive(Debug, Clone)]
pub struct Identity {
    pub device: DeviceId,
    pub name: String,
    /// Which key of the pool it holds.
    pub key: usize,
    /// The digest of its key row.
    pub digest: Digest,
    pub journal: JournalId,
}

/// The devices of a fleet.
#[derive(Debug, Clone)]
pub struct Roster {
    /// Each one.
    pub identities: Vec<Identity>,
    pub(super) pool: Arc<Pool>,
}

impl Roster {
    /// Adds `count` devices to a server, with names `light-000001` and so on and [`LABEL`].
    ///
    /// # Panics
    /// When the database does not take them.
    pub async fn enrol(server: &TestServer, count: usize) -> Self {
        // A key takes seconds to make; a small fleet makes do with one or two.
        let keys = KEYS.min(1 + count / 64);
        let mut templates = Vec::new();
        for key in 0..keys {
            templates.push(server.raw_device(&format!("light-template-{key}")).await);
        }
        let pool = Pool::new(templates.iter().map(|template| &template.key));
        let identities: Vec<_> = (0..count)
            .map(|number| Identity::new(number, keys))
            .collect();
        let templates: Vec<_> = templates.iter().map(|template| template.device).collect();
        rows::copy(server, &templates, &identities)
            .await
            .expect("the database takes the rows of a fleet");
        Self {
            identities,
            pool: Arc::new(pool),
        }
    }

    /// Devices no server has heard of, with the pool of [`Pool::kept`].
    #[must_use]
    pub fn unknown(count: usize) -> Self {
        let identities = (0..count).map(|number| Identity::new(number, KEYS));
        Self {
            identities: identities.collect(),
            pool: Arc::new(Pool::kept()),
        }
    }

    /// The first `count` of them.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        let identities = self.identities.iter().take(count).cloned();
        Self {
            identities: identities.collect(),
            pool: Arc::clone(&self.pool),
        }
    }
}

impl Identity {
    fn new(number: usize, keys: usize) -> Self {
        let device = DeviceId::generate();
        Self {
            device,
            name: format!("light-{:06}", number + 1),
            key: number % keys,
            digest: Digest::of(device.to_string().as_bytes()),
            journal: JournalId::generate(),
        }
    }
}
