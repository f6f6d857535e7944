//! A log of what the harness did to a world, shown when a scenario fails.

use std::{fmt, sync::Arc, time::Instant};

use parking_lot::Mutex;

/// Lines shown of a long history.
const SHOWN: usize = 400;

/// A log of what the harness did; clones share it.
#[derive(Clone)]
pub struct History {
    start: Instant,
    prefix: String,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            prefix: String::new(),
            lines: Arc::default(),
        }
    }
}

impl History {
    /// The same history, for one of several worlds.
    #[must_use]
    pub fn of_world(&self, name: impl fmt::Display) -> Self {
        Self {
            prefix: format!("[{name}] "),
            ..self.clone()
        }
    }

    /// Adds a line.
    pub fn note(&self, what: impl fmt::Display) {
        let line = format!(
            "{:9.3} {}{what}",
            self.start.elapsed().as_secs_f64(),
            self.prefix
        );
        self.lines.lock().push(line);
    }

    /// Lines so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.lock().len()
    }

    /// Whether nothing was done yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The end of it, oldest line first.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines.lock();
        let from = lines.len().saturating_sub(SHOWN);
        if from > 0 {
            writeln!(f, "({from} lines before)")?;
        }
        for line in &lines[from..] {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("lines", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_history_share_it_and_its_end_is_shown() {
        let history = History::default();
        for n in 0..=SHOWN {
            history.of_world("w").note(format_args!("line <{n}>"));
        }
        let text = history.to_string();
        assert!(text.starts_with("(1 lines before)"), "{text}");
        assert!(!text.contains("<0>") && text.contains(&format!("[w] line <{SHOWN}>")));
    }
}
