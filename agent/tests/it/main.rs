//! The whole agent against a fake server, which can do what a real one never would.

mod bench;
mod deferral;
mod deploying;
mod fake_server;
mod health;
mod lost_key;
mod plans_and_configuration;
mod previous_release;
mod recovering;
mod restart;
mod session;
mod stopping;
mod support_bundle;
