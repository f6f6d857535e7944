//! What is signed, byte for byte.
//!
//! A transcript is a sequence of fields, each preceded by its length as a 32-bit big-endian number,
//! so that no two different lists of fields give the same bytes. The signature is RSASSA-PSS with
//! SHA-256, MGF1 with SHA-256 and a 32-byte salt, over the transcript (the scheme hashes it).

use bytes::Bytes;
use prost::Message as _;

use crate::{
    ids::{ClusterId, DeviceId, Digest, JournalId, TokenId},
    v1,
};

mod enrollment_token;

pub use enrollment_token::{EnrollmentToken, InvalidEnrollmentToken, WebPki};

/// Length of every nonce, in bytes.
pub const NONCE_LEN: usize = 32;

/// Modulus size of a device key, in bits.
pub const DEVICE_KEY_BITS: usize = 4096;

/// What a peer that pins the server's CA names among the authorities it accepts (RFC 8446, 4.2.4):
/// the subject `CN=Kernex CA`, DER. A server that was given a certificate of another authority
/// shows such a peer the one of its own CA.
pub const CA_HINT: &[u8] = &[
    0x30, 0x14, 0x31, 0x12, 0x30, 0x10, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x09, b'K', b'e', b'r',
    b'n', b'e', b'x', b' ', b'C', b'A',
];

const ENROLL_PURPOSE: &[u8] = b"kernex.v1.enroll";
const SESSION_PURPOSE: &[u8] = b"kernex.v2.session";
const SESSION_PURPOSE_V1: &[u8] = b"kernex.v1.session";

/// Binds a handshake to its TLS connection (RFC 9266, `tls-exporter`): both ends compute the same
/// 32 bytes; somebody who ends TLS between them gets other bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelBinding(Option<[u8; Self::LEN]>);

impl ChannelBinding {
    /// Label of the exporter; its context is empty.
    pub const LABEL: &'static [u8] = b"EXPORTER-Channel-Binding";
    /// Length of the exporter, in bytes.
    pub const LEN: usize = 32;
    /// Of a connection without TLS, which is for loopback only.
    pub const PLAINTEXT: Self = Self(None);

    /// Of a connection over TLS.
    #[must_use]
    pub const fn exported(bytes: [u8; Self::LEN]) -> Self {
        Self(Some(bytes))
    }

    /// The bytes that are signed; none without TLS.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], <[u8; Self::LEN]>::as_slice)
    }
}

/// What an agent signs to enrol. The secret of the token is part of it by its digest only.
#[derive(Debug, Clone, Copy)]
pub struct EnrollTranscript<'a> {
    /// Cluster, from the token's text.
    pub cluster: ClusterId,
    pub token: TokenId,
    /// SHA-256 of the public key, SPKI DER.
    pub key: Digest,
    /// Random bytes of the caller, [`NONCE_LEN`] of them.
    pub nonce: &'a [u8],
}

impl EnrollTranscript<'_> {
    /// The bytes to sign.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        transcript(&[
            ENROLL_PURPOSE,
            self.cluster.0.as_bytes(),
            self.token.0.as_bytes(),
            &self.key.0,
            self.nonce,
        ])
    }
}

/// The revision two sides speak when one of them announces `announced`, of which 0 means 1.
#[must_use]
pub fn agreed_revision(own: u32, announced: u32) -> u32 {
    own.min(announced.max(1))
}

/// What an agent signs to open a session, since revision 2: all of `Hello`, on this connection.
#[derive(Debug, Clone, Copy)]
pub struct SessionTranscript<'a> {
    /// Cluster, from `Challenge`.
    pub cluster: ClusterId,
    /// Nonce of `Challenge`.
    pub server_nonce: &'a [u8],
    /// Nonce of `Hello`.
    pub client_nonce: &'a [u8],
    /// The TLS connection. On another one the signature is not valid.
    pub binding: &'a ChannelBinding,
    /// SHA-256 of the public key, SPKI DER.
    pub key: Digest,
    /// `Hello.body`, byte for byte.
    pub body: &'a [u8],
}

impl SessionTranscript<'_> {
    /// The bytes to sign.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        transcript(&[
            SESSION_PURPOSE,
            self.cluster.0.as_bytes(),
            self.server_nonce,
            self.client_nonce,
            self.binding.bytes(),
            &self.key.0,
            &Digest::of(self.body).0,
        ])
    }
}

/// A `Hello` is not what its revision asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHello {
    /// Another field is set beside the body, so that it is not clear which counts.
    #[error("fields stand beside the body")]
    Beside,
    /// The body is no `Hello`.
    #[error("the body cannot be decoded")]
    Body,
    /// A body within the body, or a signature.
    #[error("the body holds a body or a signature")]
    Nested,
}

/// A `Hello` that was read, with the bytes that are signed.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadHello {
    /// Its fields; `body` is empty.
    pub hello: v1::Hello,
    /// The signed bytes, since revision 2; the fields were read from them.
    pub body: Option<Bytes>,
}

impl ReadHello {
    /// Reads the body of revision 2, or takes the fields of revision 1.
    pub fn of(wire: v1::Hello) -> Result<Self, InvalidHello> {
        if wire.body.is_empty() {
            return Ok(Self {
                hello: wire,
                body: None,
            });
        }
        let bare = v1::Hello {
            body: wire.body.clone(),
            signature: wire.signature.clone(),
            ..v1::Hello::default()
        };
        if wire != bare {
            return Err(InvalidHello::Beside);
        }
        let v1::Hello {
            body, signature, ..
        } = wire;
        let hello = v1::Hello::decode(body.clone()).map_err(|_| InvalidHello::Body)?;
        if !hello.body.is_empty() || !hello.signature.is_empty() {
            return Err(InvalidHello::Nested);
        }
        Ok(Self {
            hello: v1::Hello { signature, ..hello },
            body: Some(body),
        })
    }

    /// The body of revision 2 for a `Hello` that is not signed yet.
    #[must_use]
    pub fn body_of(hello: &v1::Hello) -> Bytes {
        hello.encode_to_vec().into()
    }

    /// The `Hello` of revision 2 around a signed body.
    #[must_use]
    pub fn sealed(body: Bytes, signature: Bytes) -> v1::Hello {
        v1::Hello {
            body,
            signature,
            ..v1::Hello::default()
        }
    }

    /// The revision it is signed by.
    #[must_use]
    pub const fn revision(&self) -> u32 {
        if self.body.is_some() { 2 } else { 1 }
    }
}

/// What an agent signs to open a session in revision 1.
#[derive(Debug, Clone, Copy)]
pub struct SessionTranscriptV1<'a> {
    /// Cluster, from `Challenge`.
    pub cluster: ClusterId,
    /// Nonce of `Challenge`.
    pub server_nonce: &'a [u8],
    /// Nonce of `Hello`.
    pub client_nonce: &'a [u8],
    pub device: DeviceId,
    /// SHA-256 of the public key, SPKI DER.
    pub key: Digest,
    /// Boot id of `Hello`.
    pub boot_id: &'a str,
    /// Journal of `Hello`.
    pub journal: JournalId,
}

impl SessionTranscriptV1<'_> {
    /// The bytes to sign.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        transcript(&[
            SESSION_PURPOSE_V1,
            self.cluster.0.as_bytes(),
            self.server_nonce,
            self.client_nonce,
            self.device.0.as_bytes(),
            &self.key.0,
            self.boot_id.as_bytes(),
            self.journal.0.as_bytes(),
        ])
    }
}

fn transcript(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(fields.iter().map(|f| f.len() + 4).sum());
    for field in fields {
        bytes.extend_from_slice(&(field.len() as u32).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn different_fields_never_give_the_same_transcript(
            a in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..5),
            b in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..5),
        ) {
            let join = |list: &[Vec<u8>]| transcript(&list.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!(a == b, join(&a) == join(&b));
        }
    }

    #[test]
    fn a_session_signs_its_connection_and_its_body() {
        let body = b"body".as_slice();
        let binding = ChannelBinding::exported([7; 32]);
        let good = SessionTranscript {
            cluster: ClusterId::generate(),
            server_nonce: &[1; 32],
            client_nonce: &[2; 32],
            binding: &binding,
            key: Digest([3; 32]),
            body,
        };
        let others = [
            SessionTranscript {
                cluster: ClusterId::generate(),
                ..good
            },
            SessionTranscript {
                server_nonce: &[2; 32],
                ..good
            },
            SessionTranscript {
                client_nonce: &[1; 32],
                ..good
            },
            SessionTranscript {
                binding: &ChannelBinding::exported([8; 32]),
                ..good
            },
            SessionTranscript {
                binding: &ChannelBinding::PLAINTEXT,
                ..good
            },
            SessionTranscript {
                key: Digest([4; 32]),
                ..good
            },
            SessionTranscript {
                body: b"bodY",
                ..good
            },
        ];
        for other in others {
            assert_ne!(good.bytes(), other.bytes(), "{other:?}");
        }
    }

    #[test]
    fn the_smaller_revision_is_spoken_and_none_means_the_first() {
        for (own, announced, agreed) in [(2, 0, 1), (2, 1, 1), (2, 2, 2), (2, 9, 2), (1, 2, 1)] {
            assert_eq!(agreed_revision(own, announced), agreed);
        }
    }

    #[test]
    fn a_hello_says_one_thing_only() {
        let said = v1::Hello {
            device_id: "device".into(),
            last_epoch: 7,
            ..v1::Hello::default()
        };
        let body = ReadHello::body_of(&said);
        let signature = Bytes::from_static(b"signature");
        let wire = ReadHello::sealed(body.clone(), signature.clone());
        let read = ReadHello::of(wire.clone()).unwrap();
        assert_eq!((read.revision(), read.body), (2, Some(body)));
        assert_eq!(read.hello.signature, signature);
        assert_eq!(
            (read.hello.device_id.as_str(), read.hello.last_epoch),
            ("device", 7)
        );

        let first = ReadHello::of(said.clone()).unwrap();
        assert_eq!((first.revision(), &first.hello), (1, &said));

        let mut beside = wire;
        beside.last_epoch = 8;
        assert_eq!(ReadHello::of(beside), Err(InvalidHello::Beside));
        let broken = ReadHello::sealed(Bytes::from_static(&[0xff; 4]), signature.clone());
        assert_eq!(ReadHello::of(broken), Err(InvalidHello::Body));
        for inner in [
            v1::Hello {
                body: signature.clone(),
                ..said.clone()
            },
            v1::Hello {
                signature: signature.clone(),
                ..said
            },
        ] {
            let nested = ReadHello::sealed(ReadHello::body_of(&inner), signature.clone());
            assert_eq!(ReadHello::of(nested), Err(InvalidHello::Nested));
        }
    }
}
