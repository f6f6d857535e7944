//! Everything that touches a socket. Connections are accepted, kept short until something on them
//! has authenticated, and served. Callers are authenticated. Answers leave as fast as their peers
//! read.
//!
//! From outside to inside: `accept` has the loop of both listeners. `listener` does TLS with the
//! certificate of `tls`, `connections` speaks HTTP/2, `observe` puts a span around each call,
//! `auth` says who calls, and `answers` feeds and measures what goes back. `monitor` is the other
//! listener, for metrics and probes; `probe` asks it. Handlers and sessions stand above this floor:
//! they are given the caller, and a handle of the connection.

mod accept;
pub mod answers;
pub mod auth;
pub(crate) mod connections;
pub mod listener;
pub(crate) mod monitor;
pub mod observe;
pub mod probe;
pub mod tls;
