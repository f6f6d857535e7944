//! All crash points, and what triggers each.

use std::fmt;

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
pub(super) enum Trigger {
    /// The start of a program, and the sessions it opens.
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
    Plan,
    /// A device that enrols.
    Enrol,
    /// A deployment that has a second to reach its device.
    Expire,
    /// A bundle that is deleted.
    DeleteBundle,
    /// A server that is told to stop.
    Drain,
    /// None of these: [`apart`](super::apart) has code for it.
    Apart,
}

/// Files that the first start of a server makes: two keys, two certificates, a token.
const PRIVATE_FILES: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) program: Program,
    pub(super) act: &'static str,
    side: &'static str,
    trigger: Trigger,
}

/// A crash point, armed for one start of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ArmedPoint {
    pub(super) program: Program,
    pub(super) act: &'static str,
    side: &'static str,
    /// Crash at this pass, counted from 1.
    pub(super) nth: usize,
    pub(super) trigger: Trigger,
}

impl Point {
    pub(super) fn arm(self, time: usize, rng: &mut StdRng) -> ArmedPoint {
        let nth = match self.trigger {
            // The files of a first start, one after another.
            _ if self.act == "file.private" => 1 + time % PRIVATE_FILES,
            Trigger::Deploy if time > 0 => rng.random_range(1..=2),
            _ => 1,
        };
        let Self {
            program,
            act,
            side,
            trigger,
        } = self;
        ArmedPoint {
            program,
            act,
            side,
            nth,
            trigger,
        }
    }
}

impl ArmedPoint {
    /// The value of the environment variable that arms the point.
    pub(super) fn setting(&self) -> String {
        format!("{}.{}#{}", self.act, self.side, self.nth)
    }
}

impl fmt::Display for ArmedPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of the {}", self.setting(), self.program.name())
    }
}

/// The acts that the page lists for a program, in rows like "| agent | `journal.open` | ... |".
fn acts(program: Program) -> impl Iterator<Item = &'static str> {
    let row = format!("| {} | `", program.name());
    let begun = move |line: &'static str| line.strip_prefix(row.as_str());
    let rows = PAGE.lines().filter_map(begun);
    rows.filter_map(|rest| Some(rest.split_once('`')?.0))
}

/// Every point of a program.
pub(super) fn of(program: Program) -> Vec<Point> {
    acts(program)
        .flat_map(|act| {
            let trigger = trigger(program, act);
            ["before", "after"].map(|side| Point {
                program,
                act,
                side,
                trigger,
            })
        })
        .collect()
}

/// What triggers an act. A new act is triggered by deployments unless a line here says otherwise.
fn trigger(program: Program, act: &str) -> Trigger {
    match (program, act) {
        (Program::Agent, "journal.open" | "journal.epoch") => Trigger::Start,
        (Program::Agent, "send.hello" | "send.ready" | "send.heartbeat") => Trigger::Start,
        (Program::Agent, "journal.stop") => Trigger::Cancel,
        (Program::Agent, "journal.defer" | "send.deferred") => Trigger::Defer,
        (Program::Agent, "journal.restart") => Trigger::Restart,
        (Program::Agent, "journal.return") => Trigger::Return,
        (Program::Agent, "journal.failing" | "release.remove" | "trash.move") => Trigger::Fail,
        (Program::Agent, "current.clear") => Trigger::FailFirst,
        (Program::Agent, "journal.configure" | "send.configured") => Trigger::Configure,
        (Program::Agent, "send.planned") => Trigger::Plan,
        (Program::Agent, "journal.set-aside" | "journal.refuse") => Trigger::Apart,
        (Program::Agent, "journal.release" | "file.create") => Trigger::Apart,
        (Program::Server, "file.private") => Trigger::Apart,
        (Program::Server, "blob.delete") => Trigger::DeleteBundle,
        // Deploys that are answered at once are noted with the answer.
        (Program::Server, "commit.sent" | "commit.cancel" | "push.stop") => Trigger::Cancel,
        (Program::Server, "commit.enroll") => Trigger::Enrol,
        (Program::Server, "commit.session" | "commit.ready" | "commit.close") => Trigger::Start,
        (Program::Server, "commit.heartbeats" | "commit.beside") => Trigger::Start,
        (Program::Server, "push.challenge" | "push.welcome" | "ack.heartbeat") => Trigger::Start,
        (Program::Server, "commit.runs" | "push.run") => Trigger::Defer,
        (Program::Server, "commit.expiry") => Trigger::Expire,
        (Program::Server, "commit.other" | "push.configure") => Trigger::Configure,
        (Program::Server, "push.plan") => Trigger::Plan,
        (Program::Server, "push.drain") => Trigger::Drain,
        (Program::Agent | Program::Server, _) => Trigger::Deploy,
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
