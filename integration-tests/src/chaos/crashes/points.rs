//! The points there are, and how each is brought about.

use std::fmt;

use kernex_proto::crash::listed;
use rand::{RngExt as _, rngs::StdRng};

/// The page that lists them; each program's own test holds it against its code.
const PAGE: &str = include_str!("../../../../docs/crash-points.md");

/// Which program dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Agent,
    Server,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Server => "server",
        }
    }
}

/// What makes a program pass a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    /// It is passed by starting, and by the sessions that come of it.
    Start,
    /// A deployment that goes well.
    Deploy,
    /// A deployment that is taken back while its script runs.
    Cancel,
    /// A `hooks.pre` that asks for another run.
    Defer,
    /// A script that asks for a restart of the agent.
    Restart,
    /// A script that fails where the release before asks for a restart of the agent.
    Return,
    /// A script that fails where a release was before.
    Fail,
    /// A `hooks.post` that fails where nothing was before.
    FailFirst,
    /// A new configuration of the device.
    Configure,
    /// A question before a deployment.
    Plan,
    /// A device that enrols.
    Enrol,
    /// A deployment that has a second to reach its device.
    Expire,
    /// A bundle that is deleted.
    DeleteBundle,
    /// A server that is told to stop.
    Drain,
    /// Something of its own.
    Apart,
}

/// Files that the first start of a server makes: two keys, two certificates, a token.
const PRIVATE_FILES: usize = 5;

/// One point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) program: Program,
    pub(super) act: &'static str,
    side: &'static str,
    means: Means,
}

/// One time that a point is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shot {
    pub(super) program: Program,
    pub(super) act: &'static str,
    side: &'static str,
    /// Which pass.
    pub(super) nth: usize,
    pub(super) means: Means,
}

impl Point {
    pub(super) fn shot(self, time: usize, rng: &mut StdRng) -> Shot {
        let nth = match self.means {
            // The files of a first start, one after another.
            _ if self.act == "file.private" => 1 + time % PRIVATE_FILES,
            Means::Deploy if time > 0 => rng.random_range(1..=2),
            _ => 1,
        };
        let Self {
            program,
            act,
            side,
            means,
        } = self;
        Shot {
            program,
            act,
            side,
            nth,
            means,
        }
    }
}

impl Shot {
    /// What the program is told.
    pub(super) fn armed(&self) -> String {
        format!("{}.{}#{}", self.act, self.side, self.nth)
    }
}

impl fmt::Display for Shot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of the {}", self.armed(), self.program.name())
    }
}

/// Every point of a program.
pub(super) fn of(program: Program) -> Vec<Point> {
    listed(PAGE, program.name())
        .flat_map(|act| {
            let means = means(program, act);
            ["before", "after"].map(|side| Point {
                program,
                act,
                side,
                means,
            })
        })
        .collect()
}

/// A new act is passed by deployments, or says here what passes it.
fn means(program: Program, act: &str) -> Means {
    match (program, act) {
        (Program::Agent, "journal.open" | "journal.epoch") => Means::Start,
        (Program::Agent, "send.hello" | "send.ready" | "send.heartbeat") => Means::Start,
        (Program::Agent, "journal.stop") => Means::Cancel,
        (Program::Agent, "journal.defer" | "send.deferred") => Means::Defer,
        (Program::Agent, "journal.restart") => Means::Restart,
        (Program::Agent, "journal.return") => Means::Return,
        (Program::Agent, "journal.failing" | "release.remove" | "trash.move") => Means::Fail,
        (Program::Agent, "current.clear") => Means::FailFirst,
        (Program::Agent, "journal.configure" | "send.configured") => Means::Configure,
        (Program::Agent, "send.planned") => Means::Plan,
        (Program::Agent, "journal.set-aside" | "journal.refuse") => Means::Apart,
        (Program::Agent, "journal.release" | "file.create") => Means::Apart,
        (Program::Server, "file.private") => Means::Apart,
        (Program::Server, "blob.delete") => Means::DeleteBundle,
        // Deploys that are answered at once are noted with the answer.
        (Program::Server, "commit.sent" | "commit.cancel" | "push.stop") => Means::Cancel,
        (Program::Server, "commit.enroll") => Means::Enrol,
        (Program::Server, "commit.session" | "commit.ready" | "commit.close") => Means::Start,
        (Program::Server, "commit.heartbeats" | "commit.beside") => Means::Start,
        (Program::Server, "push.challenge" | "push.welcome" | "ack.heartbeat") => Means::Start,
        (Program::Server, "commit.runs" | "push.run") => Means::Defer,
        (Program::Server, "commit.expiry") => Means::Expire,
        (Program::Server, "commit.other" | "push.configure") => Means::Configure,
        (Program::Server, "push.plan") => Means::Plan,
        (Program::Server, "push.drain") => Means::Drain,
        (Program::Agent | Program::Server, _) => Means::Deploy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_act_has_two_points() {
        for (program, act) in [
            (Program::Agent, "journal.outcome"),
            (Program::Server, "ack.report"),
        ] {
            let points = of(program);
            let sides: Vec<&str> = points
                .iter()
                .filter(|point| point.act == act)
                .map(|point| point.side)
                .collect();
            assert_eq!(sides, ["before", "after"]);
            assert!(points.len() > 40);
        }
    }
}
