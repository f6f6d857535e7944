//! What is wrong with an upload as a whole.

use std::time::Duration;

use kernex_proto::ids::Digest;

/// Why an upload was ended, or its bytes are no bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UploadError {
    /// The caller sends nothing.
    #[error("nothing came for {} s; start the upload again", .0.as_secs())]
    Silent(Duration),
    /// The caller sends too little.
    #[error(
        "{size} bytes came in {} s: an upload that takes longer than {} s has to keep up {} KiB/s; start it again on a faster line",
        .took.as_secs(), .grace.as_secs(), .least_rate / 1024
    )]
    TooSlow {
        /// Bytes that came.
        size: u64,
        took: Duration,
        /// Time that every upload may take.
        grace: Duration,
        /// Bytes a second it has to send when it takes longer.
        least_rate: u64,
    },
    /// Another number of bytes was announced.
    #[error("{came} bytes came and {said} were announced")]
    OtherSize {
        /// Bytes that came.
        came: u64,
        /// Bytes that were announced.
        said: u64,
    },
    /// Other bytes were announced.
    #[error("the bytes have the digest {came}, not {said}")]
    OtherDigest {
        /// Digest of the bytes.
        came: Digest,
        /// Digest that was announced.
        said: Digest,
    },
    /// There are more bytes than this, which is what the server allows.
    #[error("this server stores no bundles of more than {0} bytes")]
    TooLarge(u64),
}
