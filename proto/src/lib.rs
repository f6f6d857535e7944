//! The contract of Kernex, and the core that its programs share.
//!
//! [`v1`] holds the stubs generated from `kernex/v1/*.proto`. The modules beside it hold what the
//! schema alone cannot say, and both ends have to agree on: identifiers, the bundle manifest, the
//! signed transcripts of the handshakes, the texts of tokens, the reasons carried by errors.
//!
//! Behind features stands what more than one program needs and what is written once therefore:
//! `archive`, `connect` with `trust`, `telemetry`, `service` and `crash`. A program takes only the
//! features that it uses. The words are explained in `docs/glossary.md`.

#[cfg(feature = "archive")]
pub mod archive;
pub mod codec;
#[cfg(feature = "connect")]
pub mod connect;
pub mod crash;
pub mod digest;
pub mod error;
pub mod event_kinds;
pub mod handshake;
pub mod ids;
mod invalid_id;
pub mod manifest;
pub mod near;
pub mod operator_token;
#[cfg(unix)]
pub mod private;
#[cfg(all(unix, feature = "service"))]
pub mod service;
#[cfg(feature = "telemetry")]
pub mod telemetry;
#[cfg(feature = "connect")]
pub mod trust;
pub mod units;
pub mod words;

/// Messages, clients and servers of package `kernex.v1`.
#[expect(clippy::doc_markdown, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("kernex.v1");
}

/// The compiled schema with its comments, for reflection and policy checks.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Newest revision of the session protocol both programs speak. In revision 2 all of `Hello` is
/// signed, together with the connection it comes over.
pub const PROTOCOL_REVISION: u32 = 2;

/// Largest piece of a bundle in one message, in bytes.
pub const CHUNK_SIZE: usize = 256 * 1024;

/// Metadata key that carries the session token of a download.
pub const SESSION_TOKEN_KEY: &str = "kernex-session-token";

/// Metadata key that carries the device id of a download.
pub const DEVICE_ID_KEY: &str = "kernex-device-id";

/// Most bytes of script output that travel with an outcome.
pub const OUTPUT_TAIL_LIMIT: usize = 64 * 1024;
