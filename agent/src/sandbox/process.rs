//! The process table, as `/proc` shows it.

use std::fs;

/// One line of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    pub(super) start_ticks: u64,
    pub(super) zombie: bool,
}

impl Process {
    pub(super) fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    pub(super) fn all() -> Vec<Self> {
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(Self::read)
            .collect()
    }

    /// `pid (name) state ppid pgrp session ...`; the name may hold anything, also parentheses.
    pub(super) fn parse(stat: &str) -> Option<Self> {
        let (pid, rest) = stat.split_once(" (")?;
        let (_, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |n: usize| fields.get(n).and_then(|field| field.parse::<i32>().ok());
        Some(Self {
            pid: pid.parse().ok()?,
            zombie: matches!(fields.first()?, &("Z" | "X")),
            parent: number(1)?,
            group: number(2)?,
            session: number(3)?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }

    /// Whether a child of ours is one we never started ourselves. What we start is the leader of a
    /// group of its own within our session (a script) or a member of our group (anything else in
    /// this process).
    pub(super) fn is_orphan(&self, me: &Self) -> bool {
        self.session != me.session || (self.group != self.pid && self.group != me.group)
    }
}
