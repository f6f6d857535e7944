//! Progress on stderr: bars on a terminal, plain lines for a watch in a pipe, nothing in the way of the data.

use std::{collections::HashMap, io::IsTerminal as _, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{clean, deployment::DeploymentView, say, target::TargetView};

/// Most devices that get a line of their own at a time; a fleet does not fit on a screen.
const MOST_LINES: usize = 12;

/// A bar for bytes; hidden when stderr is not a terminal.
pub(crate) fn transfer(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(
        "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
    ) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(clean(what));
    bar
}

/// A spinner for something without a measure; said as a line when stderr is not a terminal.
pub(crate) fn waiting(what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        say(what);
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.set_message(clean(what));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Shows a deployment as it goes on.
pub(crate) struct Watching {
    bars: Option<Bars>,
    said: HashMap<String, String>,
}

struct Bars {
    group: MultiProgress,
    overall: ProgressBar,
    devices: HashMap<String, ProgressBar>,
}

impl Watching {
    /// Shows on stderr.
    pub(crate) fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(|| {
            let group = MultiProgress::new();
            let overall = group.add(ProgressBar::new(0));
            if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {pos}/{len} devices, {msg}")
            {
                overall.set_style(style.progress_chars("=> "));
            }
            Bars {
                group,
                overall,
                devices: HashMap::new(),
            }
        });
        Self {
            bars,
            said: HashMap::new(),
        }
    }

    /// The counts changed.
    pub(crate) fn deployment(&mut self, deployment: &DeploymentView) {
        if let Some(bars) = &self.bars {
            let (closed, total) = deployment.closed();
            bars.overall.set_length(total);
            bars.overall.set_position(closed);
            bars.overall.set_message(deployment.sentence());
        }
    }

    /// A device changed.
    pub(crate) fn target(&mut self, target: &TargetView) {
        let line = clean(&format!("{}: {}", target.device(), target.sentence()));
        match &mut self.bars {
            Some(bars) => bars.target(target, &line),
            None => {
                // Bytes would be a flood of lines; a new state or step is worth one.
                let known = target.phase();
                if self.said.get(target.device()) != Some(&known) {
                    say(&format!("  {line}"));
                    self.said.insert(target.device().to_owned(), known);
                }
            }
        }
    }

    /// Says something between the bars.
    pub(crate) fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.group.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Takes the bars away.
    pub(crate) fn finish(self) {
        if let Some(bars) = self.bars {
            for bar in bars.devices.into_values() {
                bar.finish_and_clear();
            }
            bars.overall.finish_and_clear();
        }
    }
}

impl Bars {
    fn target(&mut self, target: &TargetView, line: &str) {
        if target.closed() {
            if let Some(bar) = self.devices.remove(target.device()) {
                bar.finish_and_clear();
            }
        } else if let Some(bar) = self.devices.get(target.device()) {
            bar.set_message(line.to_owned());
        } else if target.at_work() && self.devices.len() < MOST_LINES {
            let bar = self
                .group
                .insert_before(&self.overall, ProgressBar::new_spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(line.to_owned());
            self.devices.insert(target.device().to_owned(), bar);
        }
    }
}
