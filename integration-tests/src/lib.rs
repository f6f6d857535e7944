//! The harness: it speaks of servers, devices and operators, so that a test reads as the story it
//! tells.
//!
//! Everything under test is a real process built from this workspace ([`binaries`]):
//! [`server::TestServer`] runs `kernex-server serve`, [`agent::TestAgent`] runs `kernex-agent`,
//! [`ctl::Ctl`] runs `kernexctl`. What no well-behaved program would do is done from here:
//! [`raw_agent`] is an agent that can say anything, [`fake_server`] a server that can send
//! anything, [`fleet`] ten thousand light agents in one process, [`proxy`] a network that can be
//! cut, [`connect_proxy`] a site's only way out, [`interceptor`] somebody in between who has the
//! CA's key, [`bundle`] makes archives no honest tool makes. Tests wait for conditions ([`wait`]),
//! never for time, and each runs on both databases ([`both_databases`]).

pub mod agent;
pub mod binaries;
pub mod bundle;
pub mod chaos;
pub mod collector;
pub mod connect_proxy;
pub mod ctl;
pub mod database;
pub mod disk_image;
pub mod fake_server;
pub mod fleet;
pub mod http;
pub mod interceptor;
pub mod keys;
pub mod operator;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod raw_agent;
pub mod refusal;
pub mod rows;
pub mod samples;
pub mod server;
pub mod wait;

pub use agent::{AgentOptions, TestAgent};
pub use bundle::BundleBuilder;
pub use ctl::Ctl;
pub use database::Database;
pub use fleet::Fleet;
pub use operator::Operator;
pub use proxy::Proxy;
pub use raw_agent::{RawIdentity, RawSession};
pub use server::{ServerOptions, TestServer};
pub use wait::wait_for;
