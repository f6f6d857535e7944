//! Acts of the agent that a crash must not be able to spoil. Each has a crash point before it and
//! one after it.

kernex_proto::crash_points! {
    /// The guarded acts; `docs/crash-points.md` says what each is.
    pub(crate) enum Act {
        JournalOpen = "journal.open",
        JournalSetAside = "journal.set-aside",
        JournalEpoch = "journal.epoch",
        JournalAccept = "journal.accept",
        JournalRefuse = "journal.refuse",
        JournalStop = "journal.stop",
        JournalBegin = "journal.begin",
        JournalProcess = "journal.process",
        JournalSwitch = "journal.switch",
        JournalDefer = "journal.defer",
        JournalRestart = "journal.restart",
        JournalReturn = "journal.return",
        JournalFailing = "journal.failing",
        JournalOutcome = "journal.outcome",
        JournalAck = "journal.ack",
        JournalConfigure = "journal.configure",
        JournalRelease = "journal.release",
        FileCreate = "file.create",
        FileReplace = "file.replace",
        ReleasePlace = "release.place",
        ReleaseRemove = "release.remove",
        ArchiveKeep = "archive.keep",
        TrashMove = "trash.move",
        CurrentSwitch = "current.switch",
        CurrentClear = "current.clear",
        ScriptStart = "script.start",
        SendHello = "send.hello",
        SendReady = "send.ready",
        SendHeartbeat = "send.heartbeat",
        SendAccepted = "send.accepted",
        SendProgress = "send.progress",
        SendDeferred = "send.deferred",
        SendOutcome = "send.outcome",
        SendPlanned = "send.planned",
        SendConfigured = "send.configured",
    }
}

#[cfg(test)]
mod tests {
    use super::Act;

    #[test]
    fn every_act_is_listed_and_every_listed_act_is_there() {
        let page = include_str!("../../docs/crash-points.md");
        let rows = page.lines().filter(|line| line.starts_with("| agent | "));
        let listed: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        let there: Vec<&str> = Act::ALL.iter().map(|act| act.name()).collect();
        assert_eq!(there, listed);
    }
}
