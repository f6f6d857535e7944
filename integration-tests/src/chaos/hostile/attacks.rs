//! Every attack there is. One goes on until it is dropped, and comes again when the server throws
//! it out.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::target::Target;

mod floods;
mod insiders;
mod strangers;

type Attacking = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One kind of attack.
#[derive(Clone, Copy)]
pub(super) struct Attack {
    pub(super) name: &'static str,
    /// Attackers side by side.
    pub(super) attackers: usize,
    /// Runs one attacker, given its number.
    pub(super) run: fn(Arc<Target>, usize) -> Attacking,
}

/// Pause of an attacker that was disconnected. The attack is on the server, not on the processor of
/// this machine.
const AGAIN: Duration = Duration::from_millis(20);

macro_rules! attack {
    ($name:literal, $attackers:literal, $run:path) => {
        Attack {
            name: $name,
            attackers: $attackers,
            run: |target, number| {
                Box::pin(async move {
                    loop {
                        $run(&target, number).await;
                        sleep(AGAIN).await;
                    }
                })
            },
        }
    };
}

pub(super) const ATTACKS: &[Attack] = &[
    // Without a key or a token.
    attack!("rapid reset", 2, floods::rapid_reset),
    attack!("endless continuation", 2, floods::continuation),
    attack!("huge headers", 2, floods::huge_headers),
    attack!("pings", 2, floods::pings),
    attack!("settings", 2, floods::settings),
    attack!("empty data", 2, floods::empty_data),
    attack!("more streams than allowed", 2, floods::many_streams),
    attack!("names of calls", 2, floods::long_paths),
    attack!("silent connections", 1, strangers::silent_tcp),
    attack!("half a handshake", 1, strangers::half_a_handshake),
    attack!("idle connections", 1, strangers::idle_http),
    attack!("sessions without Hello", 1, strangers::silent_sessions),
    attack!("endless enrolments", 4, strangers::endless_enrolments),
    attack!(
        "256 endless enrolments",
        1,
        strangers::connections_that_enrol
    ),
    attack!("wrong Hellos", 4, strangers::wrong_hellos),
    attack!("huge Hellos", 2, strangers::huge_hellos),
    attack!("nested groups", 2, strangers::nested_groups),
    attack!("guessed tokens", 4, strangers::guessed_tokens),
    attack!("guessed enrolments", 4, strangers::guessed_enrolments),
    attack!("health watches", 8, strangers::health_watches),
    // With the token of a viewer or an operator, or with a device's key.
    attack!("watches nobody reads", 1, insiders::stalled_watches),
    attack!("uploads that stand still", 1, insiders::idle_uploads),
    attack!("an endless upload", 1, insiders::endless_upload),
    attack!("made-up releases", 1, insiders::made_up_releases),
    attack!("made-up session numbers", 1, insiders::made_up_epochs),
    attack!("a million fields", 1, insiders::a_million_fields),
    attack!("made-up progress", 1, insiders::made_up_progress),
    attack!("made-up outcomes", 1, insiders::made_up_outcomes),
    attack!(
        "sessions over and over",
        1,
        insiders::sessions_over_and_over
    ),
];
