//! Progress on stderr: bars on a terminal, plain lines in a pipe. The data on stdout stays clean.

use std::{
    collections::{BTreeMap, HashMap},
    io::IsTerminal as _,
    mem,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use kernex_proto::v1;

use crate::error::Failure;

use super::{
    Printer, bytes, counted,
    deployment::{DeploymentChange, DeploymentView},
    print_note, printable,
    target::{TargetView, failures, first_by_name, is_at_work, is_closed},
};

mod others;
mod pace;
mod transfer;

use others::Others;
pub(crate) use transfer::{moving, transfer};

/// Most devices that get a line of their own at a time; a fleet does not fit on a screen.
const MOST_LINES: usize = 12;

/// Most devices whose changes are printed one by one in a pipe, and most failures beside those.
const MOST_TOLD: usize = 10;

/// Of up to this many devices no rate is shown.
const FEW: u64 = 20;

/// Time between two frames of a spinner.
const TICK: Duration = Duration::from_millis(120);

/// A spinner for something without a measure; a line when stderr is not a terminal.
#[cfg(feature = "dev")]
pub(crate) fn waiting(what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        print_note(what);
    }
    spinner(what)
}

/// The same, with nothing when stderr is not a terminal.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.set_style(one_line());
    bar.set_message(printable(what));
    bar.enable_steady_tick(TICK);
    bar
}

/// A spinner with a message, cut to the width of the terminal.
fn one_line() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Shows the progress of a deployment.
pub(crate) struct Watching {
    bars: Option<Bars>,
    said: HashMap<String, String>,
    /// Prints each change on stdout instead of messages on stderr.
    lines: Option<Printer>,
    /// Whether the deployment was named, where only names are printed.
    is_named: bool,
    rate: Rate,
    standing: String,
    failed: BTreeMap<String, TargetView>,
    others: Others,
}

struct Rate {
    since: Instant,
    closed: u64,
    bytes: u64,
    downloads: HashMap<String, u64>,
    rate_text: String,
}

impl Rate {
    /// A rate over a shorter time would jump.
    const WINDOW: Duration = Duration::from_secs(2);

    fn new() -> Self {
        Self {
            since: Instant::now(),
            closed: 0,
            bytes: 0,
            downloads: HashMap::new(),
            rate_text: String::new(),
        }
    }

    fn target(&mut self, target: &TargetView) {
        match target.downloaded() {
            Some(done) => {
                let before = self.downloads.insert(target.device().to_owned(), done);
                self.bytes += done.saturating_sub(before.unwrap_or(0));
            }
            None => {
                self.downloads.remove(target.device());
            }
        }
    }

    /// ", 30 a minute, 2.0 MiB/s"
    fn rate_text(&mut self, closed: u64) -> &str {
        let passed = self.since.elapsed();
        if passed >= Self::WINDOW {
            let per = |count: u64, unit: u64| {
                u64::try_from(
                    u128::from(count) * u128::from(unit) * 1000 / passed.as_millis().max(1),
                )
                .unwrap_or(u64::MAX)
            };
            self.rate_text.clear();
            let devices = per(closed.saturating_sub(self.closed), 60);
            if devices > 0 {
                self.rate_text.push_str(&format!(", {devices} a minute"));
            }
            let speed = per(self.bytes, 1);
            if speed > 0 {
                self.rate_text.push_str(&format!(", {}/s", bytes(speed)));
            }
            (self.since, self.closed, self.bytes) = (Instant::now(), closed, 0);
        }
        &self.rate_text
    }
}

struct Bars {
    group: MultiProgress,
    overall: ProgressBar,
    /// Whether the server has said how many devices there are.
    is_counted: bool,
    /// Whom it waits for.
    waiting: ProgressBar,
    failures: ProgressBar,
    devices: HashMap<String, ProgressBar>,
}

impl Watching {
    /// Shows on stderr.
    pub(crate) fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(|| {
            let group = MultiProgress::new();
            // With many devices the first answer takes seconds.
            let overall = group.add(ProgressBar::new_spinner());
            overall.set_style(one_line());
            overall.set_message("the server lists the devices");
            overall.enable_steady_tick(TICK);
            let waiting = group.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                waiting.set_style(style);
            }
            let failures = group.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                failures.set_style(style);
            }
            Bars {
                group,
                overall,
                is_counted: false,
                waiting,
                failures,
                devices: HashMap::new(),
            }
        });
        Self {
            bars,
            ..Self::quiet()
        }
    }

    /// Prints each change as a line on stdout.
    pub(crate) fn lines(printer: Printer) -> Self {
        Self {
            lines: Some(printer),
            ..Self::quiet()
        }
    }

    fn quiet() -> Self {
        Self {
            bars: None,
            said: HashMap::new(),
            lines: None,
            is_named: false,
            rate: Rate::new(),
            failed: BTreeMap::new(),
            standing: String::new(),
            others: Others::default(),
        }
    }

    /// Shows where the deployment stands; false when nobody reads it any more.
    pub(crate) fn deployment(&mut self, deployment: &DeploymentView) -> Result<bool, Failure> {
        if let Some(printer) = self.lines {
            // A change has no other name than the deployment.
            if printer.names_only() && mem::replace(&mut self.is_named, true) {
                return Ok(true);
            }
            let deployment = Box::new(deployment.clone());
            return printer.line(&DeploymentChange::Deployment { deployment });
        }
        if let Some(bars) = &mut self.bars {
            let (closed, total) = deployment.closed();
            let rate = self.rate.rate_text(closed);
            // Of a few devices it says nothing, nor while nothing may begin.
            let has_rate = total > FEW && deployment.is_active();
            bars.count(closed, total, if has_rate { rate } else { "" });
            let said = [deployment.tally(), deployment.standing()];
            let said: Vec<String> = said.into_iter().filter(|text| !text.is_empty()).collect();
            bars.overall.set_message(printable(&said.join(", ")));
            let failed: Vec<TargetView> = self.failed.values().cloned().collect();
            bars.failures.set_message(failures(&failed).join("\n"));
            return Ok(true);
        }
        // Without a terminal a new phase or a pause gets a line; a new count does not.
        let standing = printable(&deployment.standing());
        if standing != self.standing {
            if !standing.is_empty() {
                print_note(&format!("  {standing}"));
            }
            self.standing = standing;
        }
        let (closed, total) = deployment.closed();
        if let Some(counts) = self.others.news(deployment.sentence(), closed == total) {
            print_note(&format!("  {}", printable(&counts)));
        }
        Ok(true)
    }

    /// Shows one device; false when nobody reads it any more.
    pub(crate) fn target(&mut self, target: &TargetView) -> Result<bool, Failure> {
        if let Some(printer) = self.lines {
            if printer.names_only() {
                return Ok(true);
            }
            let target = Box::new(target.clone());
            return printer.line(&DeploymentChange::Target { target });
        }
        self.rate.target(target);
        if target.failed() {
            self.failed
                .insert(target.device().to_owned(), target.clone());
        } else {
            self.failed.remove(target.device());
        }
        let line = printable(&format!("{}: {}", target.device(), target.standing()));
        match &mut self.bars {
            Some(bars) => {
                bars.target(target, &line);
            }
            None => {
                // A new state or step gets a line; a line for each change of bytes would be too
                // many.
                let known = target.phase();
                if self.is_told(target) && self.said.get(target.device()) != Some(&known) {
                    print_note(&format!("  {line}"));
                    self.said.insert(target.device().to_owned(), known);
                }
            }
        }
        Ok(true)
    }

    /// Shows whom the deployment waits for: those that have not begun. In a pipe, where only the
    /// first devices are told one by one, the last ones are named.
    pub(crate) fn waiting(&mut self, targets: &BTreeMap<String, v1::Target>) {
        let Some(bars) = &self.bars else {
            if let Some(last) = self.others.last_ones(targets) {
                print_note(&format!("  {last}"));
            }
            return;
        };
        let waiting = targets.values().filter(|target| {
            let state = target.state();
            !is_closed(state) && !is_at_work(state)
        });
        let message = match first_by_name(waiting) {
            named if named.is_empty() => named,
            named => format!("waiting: {named}"),
        };
        bars.waiting.set_message(message);
    }

    /// Whether a device is one of the few whose changes are printed one by one.
    fn is_told(&mut self, target: &TargetView) -> bool {
        if self.said.len() < MOST_TOLD || self.said.contains_key(target.device()) {
            return true;
        }
        self.others.exist = true;
        let fails = target.failed() && self.others.failures < MOST_TOLD;
        self.others.failures += usize::from(fails);
        fails
    }

    /// Prints a message above the bars.
    pub(crate) fn print_note(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.group.suspend(|| print_note(text)),
            None => print_note(text),
        }
    }

    /// Removes the bars.
    pub(crate) fn finish(self) {
        if let Some(bars) = self.bars {
            for bar in bars.devices.into_values() {
                bar.finish_and_clear();
            }
            bars.waiting.finish_and_clear();
            bars.failures.finish_and_clear();
            bars.overall.finish_and_clear();
        }
    }
}

impl Bars {
    /// Shows how many devices are done.
    fn count(&mut self, closed: u64, total: u64, rate: &str) {
        if !self.is_counted {
            self.is_counted = true;
            if let Ok(style) = ProgressStyle::with_template("[{bar:20}] {prefix}\n{msg}") {
                self.overall.set_style(style.progress_chars("=> "));
            }
        }
        self.overall.set_length(total);
        self.overall.set_position(closed);
        let all = counted(total, "device");
        self.overall
            .set_prefix(format!("{closed} of {all} done{rate}"));
    }

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
            bar.set_style(one_line());
            bar.enable_steady_tick(TICK);
            bar.set_message(line.to_owned());
            self.devices.insert(target.device().to_owned(), bar);
        }
    }
}
