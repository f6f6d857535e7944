//! Bytes on their way: a bar on a terminal; in a pipe only a standstill is told.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::{TICK, pace::Pace};
use crate::output::{bytes, print_note, printable, seconds};

/// A bar for bytes; hidden when stderr is not a terminal.
pub(crate) fn transfer(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(
        "{msg} [{wide_bar}] {binary_bytes} of {binary_total_bytes}{pace}",
    ) {
        let style = style.with_key("pace", Pace::default());
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(printable(what));
    // Also while nothing moves: that is when somebody looks.
    if std::io::stderr().is_terminal() {
        bar.enable_steady_tick(TICK);
    }
    bar
}

/// Waits for what a bar shows. Where no bar can be seen, in a pipe, a standstill is told once each
/// time.
pub(crate) async fn moving<T>(bar: &ProgressBar, transfer: impl Future<Output = T>) -> T {
    if std::io::stderr().is_terminal() {
        return transfer.await;
    }
    standstills(bar, transfer, print_note).await
}

/// Time between two looks at whether anything moves.
const LOOK: Duration = Duration::from_secs(1);
/// What does not move for so long stands still.
const STILL: Duration = Duration::from_secs(10);

async fn standstills<T>(
    bar: &ProgressBar,
    transfer: impl Future<Output = T>,
    say: impl Fn(&str),
) -> T {
    let mut transfer = std::pin::pin!(transfer);
    let (mut at, mut since, mut is_told) = (bar.position(), Instant::now(), false);
    loop {
        tokio::select! {
            done = &mut transfer => return done,
            () = tokio::time::sleep(LOOK) => {}
        }
        let position = bar.position();
        if position != at {
            (at, since, is_told) = (position, Instant::now(), false);
        } else if !is_told && since.elapsed() >= STILL {
            is_told = true;
            let total = bar.length().unwrap_or(0);
            say(&if at < total {
                format!(
                    "Nothing has moved for {}: {} of {}.",
                    seconds(STILL.as_secs()),
                    bytes(at),
                    bytes(total)
                )
            } else {
                "Everything is on its way; the server has not answered yet.".to_owned()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_standstill_is_told_once_each_time() {
        let bar = ProgressBar::hidden();
        bar.set_length(4 << 20);
        let said = RefCell::new(Vec::new());
        let wait = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        let transfer = async {
            for _ in 0..20 {
                bar.inc(1 << 10);
                wait(5).await;
            }
            wait(60).await;
            bar.inc(1 << 20);
            wait(30).await;
            bar.set_position(4 << 20);
            wait(30).await;
            7
        };
        let say = |text: &str| said.borrow_mut().push(text.to_owned());
        assert_eq!(standstills(&bar, transfer, say).await, 7);
        assert_eq!(
            *said.borrow(),
            [
                "Nothing has moved for 10s: 20.00 KiB of 4.00 MiB.",
                "Nothing has moved for 10s: 1.02 MiB of 4.00 MiB.",
                "Everything is on its way; the server has not answered yet.",
            ]
        );
    }
}
