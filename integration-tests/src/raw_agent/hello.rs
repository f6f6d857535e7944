//! What a device says first, and how it is signed.

use bytes::Bytes;
use kernex_proto::{
    handshake::{
        ChannelBinding, ReadHello, SessionTranscript, SessionTranscriptV1, agreed_revision,
    },
    ids::Digest,
    v1::{Challenge, Hello, Inventory},
};

use super::RawIdentity;

pub(super) fn unsigned(identity: &RawIdentity) -> Hello {
    Hello {
        device_id: identity.device.to_string(),
        client_nonce: rand::random::<[u8; 32]>().to_vec().into(),
        boot_id: "5f3c1f6e-0000-4000-8000-000000000001".into(),
        journal_id: identity.journal.to_string(),
        last_epoch: identity.last_epoch,
        protocol_revision: identity.protocol_revision,
        capabilities: vec!["stop".into()],
        agent_version: "0.0.0-test".into(),
        inventory: Some(inventory()),
        ..Hello::default()
    }
}

/// Signs it as it stands, in the words of the revision that both sides speak.
pub(super) fn sign(
    identity: &RawIdentity,
    challenge: &Challenge,
    binding: &ChannelBinding,
    hello: &mut Hello,
) {
    let cluster = challenge.cluster_id.parse().expect("a cluster id");
    let key = Digest::of(&identity.public_key());
    hello.signature = Bytes::new();
    let transcript = if revision(challenge, hello) == 1 {
        SessionTranscriptV1 {
            cluster,
            server_nonce: &challenge.server_nonce,
            client_nonce: &hello.client_nonce,
            device: identity.device,
            key,
            boot_id: &hello.boot_id,
            journal: hello.journal_id.parse().expect("a journal id"),
        }
        .bytes()
    } else {
        SessionTranscript {
            cluster,
            server_nonce: &challenge.server_nonce,
            client_nonce: &hello.client_nonce,
            binding,
            key,
            body: &ReadHello::body_of(hello),
        }
        .bytes()
    };
    hello.signature = super::sign(&identity.key, &transcript);
}

/// A signed `Hello` as it goes over the wire.
pub(super) fn sealed(challenge: &Challenge, mut hello: Hello) -> Hello {
    if revision(challenge, &hello) == 1 {
        return hello;
    }
    let signature = std::mem::take(&mut hello.signature);
    ReadHello::sealed(ReadHello::body_of(&hello), signature)
}

fn revision(challenge: &Challenge, hello: &Hello) -> u32 {
    agreed_revision(hello.protocol_revision, challenge.protocol_revision)
}

pub(super) fn inventory() -> Inventory {
    Inventory {
        os: "linux".into(),
        arch: std::env::consts::ARCH.into(),
        hostname: "test".into(),
        kernel: "0".into(),
        cpu_count: 1,
        memory_bytes: 1 << 30,
    }
}
