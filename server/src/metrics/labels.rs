//! The values of labels. There are no others, so the number of series is fixed.

/// What can become of a connection while it is a stranger: TLS done, refused or too slow, no
/// descriptor for it, no header from a trusted proxy; or it was closed as a stranger.
pub(super) const CONNECTION_RESULTS: [&str; 8] = [
    "accepted",
    "refused",
    "timed_out",
    "failed",
    "proxy_header",
    "unproven",
    "crowded",
    "evicted",
];

/// Why a stranger was refused.
pub(super) const REFUSAL_REASONS: [&str; 12] = [
    "unauthenticated",
    "unknown_method",
    "busy",
    "too_slow",
    "too_long",
    "malformed",
    "hello",
    "other",
    "proxy_header",
    "unproven",
    "crowded",
    "evicted",
];

/// When operator tokens expire that work now.
pub const TOKEN_ENDS: [&str; 2] = ["within_7_days", "later"];

/// Certificates: the one that the server made itself, its CA, and the one it was given.
pub const CERTIFICATES: [&str; 3] = ["server", "ca", "given"];

/// What can become of a session handshake.
pub(super) const HANDSHAKE_RESULTS: [&str; 11] = [
    "opened",
    "malformed",
    "unauthenticated",
    "protocol_too_old",
    "protocol_downgraded",
    "revoked",
    "too_slow",
    "overloaded",
    "draining",
    "gone",
    "store",
];

/// What a device may do only so often, or so much of.
pub(super) const DEVICE_LIMITS: [&str; 7] = [
    "messages",
    "progress",
    "releases",
    "obstacles",
    "events",
    "unknown_reports",
    "held_attempts",
];

/// States that attempts end in without a reason.
pub(super) const ENDED_WITHOUT_REASON: [&str; 4] =
    ["succeeded", "cancelled", "expired", "superseded"];
