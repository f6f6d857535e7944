//! How much of one message of a device is used. How many messages are read in a second is in
//! `delivery/registry/rate.rs`.

use kernex_proto::{ids::check_name, v1};

/// Releases in one heartbeat. A device has a handful of bundles.
const MAX_RELEASES: usize = 256;
/// Bytes of a version or a digest in a heartbeat.
const MAX_WORD: usize = 256;
/// Obstacles in the answer to a plan. There are not that many kinds.
const MAX_OBSTACLES: usize = 32;
/// Bytes of the text of an obstacle.
const MAX_OBSTACLE: usize = 1024;

/// The releases that a heartbeat names as active. `None` when there are more than any device has,
/// or when one makes no sense: then nothing is compared and nothing is written.
pub(super) fn releases(said: Vec<v1::ActiveRelease>) -> Option<Vec<v1::ActiveRelease>> {
    let is_sound = |release: &v1::ActiveRelease| {
        check_name("bundle name", &release.name).is_ok()
            && [&release.version, &release.digest, &release.previous_digest]
                .iter()
                .all(|word| word.len() <= MAX_WORD)
    };
    (said.len() <= MAX_RELEASES && said.iter().all(is_sound)).then_some(said)
}

/// Cuts the answer to a plan to the limits. True when something was cut off.
pub(super) fn shorten(answer: &mut v1::Planned) -> bool {
    let is_long = |obstacle: &v1::Obstacle| obstacle.message.len() > MAX_OBSTACLE;
    let is_much = answer.obstacles.len() > MAX_OBSTACLES || answer.obstacles.iter().any(is_long);
    answer.obstacles.truncate(MAX_OBSTACLES);
    for obstacle in &mut answer.obstacles {
        let end = obstacle.message.floor_char_boundary(MAX_OBSTACLE);
        obstacle.message.truncate(end);
    }
    is_much
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(name: &str, version: &str) -> v1::ActiveRelease {
        v1::ActiveRelease {
            name: name.into(),
            version: version.into(),
            ..v1::ActiveRelease::default()
        }
    }

    #[test]
    fn releases_that_no_device_has_are_not_looked_at() {
        let many = |many| vec![release("app", "1"); many];
        let long = "1".repeat(MAX_WORD + 1);
        let table = [
            (many(0), true),
            (many(MAX_RELEASES), true),
            (many(MAX_RELEASES + 1), false),
            (many(4000), false),
            (vec![release("app", &long[1..])], true),
            (vec![release("app", &long)], false),
            (vec![release("app", "1"), release("../etc", "1")], false),
            (vec![release(&long, "1")], false),
        ];
        for (said, expected) in table {
            let count = said.len();
            let seen = releases(said);
            assert_eq!(seen.map(|seen| seen.len()), expected.then_some(count));
        }
    }

    #[test]
    fn an_answer_to_a_plan_is_no_longer_than_an_agent_makes_it() {
        let answer = |many, text: &str| {
            let obstacle = v1::Obstacle {
                message: text.into(),
                ..v1::Obstacle::default()
            };
            v1::Planned {
                obstacles: vec![obstacle; many],
                ..v1::Planned::default()
            }
        };
        let mut usual = answer(3, "no room");
        assert!(!shorten(&mut usual));
        assert_eq!(usual, answer(3, "no room"));
        let mut much = answer(4000, &"\u{e9}".repeat(4000));
        assert!(shorten(&mut much));
        assert_eq!(much.obstacles.len(), MAX_OBSTACLES);
        assert_eq!(much.obstacles[0].message.len(), MAX_OBSTACLE);
    }
}
