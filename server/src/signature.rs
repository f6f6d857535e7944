//! Checks the signature by which a device proves its key. Nothing else checks one.

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};

/// Whether an RSASSA-PSS signature with SHA-256 holds, for a public key in SPKI DER.
#[must_use]
pub(crate) fn signature_holds(key_der: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key_der)
        .verify(message, signature)
        .is_ok()
}
