//! Why a device is away, in words.

use crate::output::{Time, ago};

/// Since when a device is away and why; none while it has a session.
pub(super) fn sentence(
    reason: &str,
    detail: &str,
    since: Option<Time>,
    now: Time,
) -> Option<String> {
    let why = match reason {
        "" => return None,
        "closed" => "its agent ended the session, as when it stops",
        "cut" => "the connection broke",
        "silent" => "nothing was heard of it: no heartbeat, or no answer to a ping",
        "drained" => "the server it was connected to stopped",
        "server_gone" => "the server it was connected to died",
        "replaced" => "a newer session of it took over, and did not last",
        "revoked" => "its key was revoked",
        "resolved" => "an operator decided between its copies",
        "refused" => "it was refused",
        "slow_consumer" => "it did not read what the server sent",
        "malformed" => "it said something that makes no sense",
        "unrecorded" => "the server could not write down what it said",
        "never_connected" => "it has never been here",
        other => other,
    };
    let text = match detail.strip_prefix("by ") {
        Some(who) if reason == "resolved" => format!("{who} decided between its copies"),
        _ if detail.is_empty() => why.to_owned(),
        _ => format!("{why}: {detail}"),
    };
    Some(match since {
        Some(_) => format!("{}: {text}", ago(since, now)),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_says_since_when_it_is_away_and_why() {
        let now = Time::at(1_000);
        let said = |reason, detail, since| sentence(reason, detail, since, now);
        assert_eq!(said("", "", None), None);
        let silent = said("silent", "", Some(Time::at(820)));
        let expected = "3m ago: nothing was heard of it: no heartbeat, or no answer to a ping";
        assert_eq!(silent.as_deref(), Some(expected));
        let refused = said("refused", "protocol too old", Some(Time::at(940)));
        let expected = "1m ago: it was refused: protocol too old";
        assert_eq!(refused.as_deref(), Some(expected));
        let resolved = said("resolved", "by admin", Some(Time::at(940)));
        let expected = "1m ago: admin decided between its copies";
        assert_eq!(resolved.as_deref(), Some(expected));
        let new = said("never_connected", "", None);
        assert_eq!(new.as_deref(), Some("it has never been here"));
        // Of a newer server.
        assert_eq!(said("asleep", "", None).as_deref(), Some("asleep"));
    }
}
