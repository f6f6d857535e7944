//! The acts of the server that a crash must not spoil. Each has a crash point before it and one
//! after it.

kernex_proto::crash_points! {
    /// `docs/crash-points.md` says what each of them is.
    pub(crate) enum Act {
        FilePrivate = "file.private",
        BlobPlace = "blob.place",
        BlobDelete = "blob.delete",
        CommitBundle = "commit.bundle",
        CommitDeployment = "commit.deployment",
        CommitCancel = "commit.cancel",
        CommitEnroll = "commit.enroll",
        CommitSession = "commit.session",
        CommitReady = "commit.ready",
        CommitClose = "commit.close",
        CommitSent = "commit.sent",
        CommitRuns = "commit.runs",
        CommitReports = "commit.reports",
        CommitExpiry = "commit.expiry",
        CommitHeartbeats = "commit.heartbeats",
        CommitBeside = "commit.beside",
        CommitOther = "commit.other",
        PushChallenge = "push.challenge",
        PushWelcome = "push.welcome",
        PushDeploy = "push.deploy",
        PushRun = "push.run",
        PushStop = "push.stop",
        PushConfigure = "push.configure",
        PushPlan = "push.plan",
        PushDrain = "push.drain",
        AckHeartbeat = "ack.heartbeat",
        AckReport = "ack.report",
    }
}

#[cfg(test)]
mod tests {
    use super::Act;

    #[test]
    fn every_act_is_listed_and_every_listed_act_is_there() {
        let page = include_str!("../../docs/crash-points.md");
        let rows = page.lines().filter(|line| line.starts_with("| server | "));
        let listed: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        let there: Vec<&str> = Act::ALL.iter().map(|act| act.name()).collect();
        assert_eq!(there, listed);
    }
}
