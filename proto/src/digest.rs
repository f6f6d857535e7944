//! SHA-256, in one place: bundle bytes, keys and tokens are known by it everywhere.
//!
//! aws-lc-rs computes it. Every program has that library already, for TLS. It is as fast in builds
//! without optimisation, where tests move gigabytes, and it has code for processors without
//! instructions for SHA-256. With such instructions the choice is open: in pieces of 256 KiB it
//! hashes 2.09 GB a second of processor time, and the crate sha2 2.05.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest::{Context, SHA256, digest};

use crate::invalid_id::InvalidId;

/// SHA-256 of a bundle's bytes, of a public key or of a token. As text: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; Self::LEN]);

impl Digest {
    /// Bytes of a digest.
    pub const LEN: usize = 32;

    /// Hashes bytes that are already in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_library(digest(&SHA256, bytes))
    }

    fn from_library(made: aws_lc_rs::digest::Digest) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(made.as_ref());
        Self(bytes)
    }
}

/// Hashes bytes that come in pieces.
///
/// ```
/// # use kernex_proto::digest::{Digest, Hasher};
/// let mut hasher = Hasher::new();
/// hasher.update(b"in ");
/// hasher.update(b"pieces");
/// assert_eq!(hasher.finish(), Digest::of(b"in pieces"));
/// ```
#[derive(Clone)]
pub struct Hasher(Context);

impl Hasher {
    #[must_use]
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    #[must_use]
    pub fn finish(self) -> Digest {
        Digest::from_library(self.0.finish())
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            kind: "SHA-256 digest (64 lower-case hex digits)",
            value: text.chars().take(80).collect(),
        };
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid());
        }
        let mut bytes = [0; Self::LEN];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| invalid())?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // FIPS 180-2, appendix B.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const MILLION_A: &str = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

    #[test]
    fn it_is_sha_256_at_once_and_in_pieces() {
        assert_eq!(Digest::of(b"abc").to_string(), ABC);
        let mut hasher = Hasher::new();
        for piece in vec![b'a'; 1_000_000].chunks(977) {
            hasher.update(piece);
        }
        assert_eq!(hasher.finish().to_string(), MILLION_A);
    }

    #[test]
    fn digests_are_lower_case_hex_of_full_length() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
        assert!("abcd".parse::<Digest>().is_err());
    }
}
