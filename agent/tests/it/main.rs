//! The whole agent against a control plane made by hand, which can do what a real one never would.

mod asked;
mod bench;
mod deploying;
mod fake_server;
mod going_back;
mod health;
mod recovering;
mod runs;
mod stopping;
