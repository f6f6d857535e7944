//! What a target waits for, in words.

use kernex_proto::v1;

use crate::output::{Time, printable, state_word, when};

/// "begins in 3m", "its device is away: silent"; empty when it waits for nothing.
pub(super) fn sentence(target: &v1::Target, now: Time) -> String {
    let reason = state_word!(v1::WaitReason, target.waits_for, "WAIT_REASON_");
    let more = match target.waits_detail.as_str() {
        "" => String::new(),
        detail => format!(": {}", printable(&detail.replace('_', " "))),
    };
    let opens = Time::from_wire(target.opens_at).map(|at| format!("begins {}", when(at, now)));
    let away = format!("its device is away{more}");
    match (reason.as_str(), opens) {
        ("" | "start" | "window", Some(opens)) => opens,
        ("device", Some(opens)) => format!("{opens}; {away}"),
        ("start", None) => "waits for its start".to_owned(),
        ("window", None) => "waits for its window".to_owned(),
        ("device", None) => away,
        ("phase", _) => "waits for its phase".to_owned(),
        ("approval", _) => "waits for approval".to_owned(),
        ("paused", _) => format!("paused{more}"),
        ("room", _) => "waits for its turn".to_owned(),
        ("budget", _) => format!("waits for its turn within a budget{more}"),
        ("conflict", _) => "its device is conflicted".to_owned(),
        ("disk", _) => "the disk of its device is sick".to_owned(),
        ("deployment", _) => format!("waits for another deployment: {}", target.waits_detail),
        ("answer", _) => "waits for its device's answer".to_owned(),
        _ => String::new(),
    }
}
