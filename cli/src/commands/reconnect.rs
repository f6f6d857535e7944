//! The reconnect policy of watches: how one continues after its stream was cut.
//!
//! | server is away for | what happens |
//! |---|---|
//! | less than 10 s | tries again, without a message |
//! | 10 s to 60 s | prints one message, tries again |
//! | more than 60 s, or an error that cannot pass | the watch fails |

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tonic::Status;

use crate::error::{Exit, Failure, is_passing};

/// How long a server may be away before the watch gives up.
const LIMIT: Duration = Duration::from_secs(60);
/// A server that is away for less than this is not mentioned: it may be restarting.
const WARN_AFTER: Duration = Duration::from_secs(10);
/// Pauses between two tries: doubled from the first up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Decides whether a watch tries again, and when.
#[derive(Debug)]
pub(crate) struct ReconnectPolicy {
    last_message: Instant,
    pauses: ExponentialBackoff,
    has_warned: bool,
}

impl ReconnectPolicy {
    /// A policy for a server that has just answered.
    pub(crate) fn new() -> Self {
        Self {
            last_message: Instant::now(),
            pauses: ExponentialBuilder::new()
                .with_min_delay(FIRST_PAUSE)
                .with_max_delay(LONGEST_PAUSE)
                .without_max_times()
                .build(),
            has_warned: false,
        }
    }

    /// The server sent a message: everything starts again.
    pub(crate) fn note_message(&mut self) {
        *self = Self::new();
    }

    /// Waits before the next try, after a stream ended with this status or without one. Fails when
    /// trying again makes no sense.
    pub(crate) async fn wait(
        &mut self,
        ended: Option<Status>,
        warn: impl FnOnce(&str),
    ) -> Result<(), Failure> {
        let away = self.last_message.elapsed();
        match ended {
            Some(status) if !is_passing(&status) || away >= LIMIT => {
                return Err(Failure::from(status));
            }
            None if away >= LIMIT => {
                return Err(Failure::new(
                    Exit::Unreachable,
                    "the server ends the watch again and again",
                    "See the server's log.",
                ));
            }
            Some(_) | None => {}
        }
        if away >= WARN_AFTER && !self.has_warned {
            warn("The connection was lost; trying again...");
            self.has_warned = true;
        }
        let pause = self.pauses.next().unwrap_or(LONGEST_PAUSE);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_again_and_what_does_not_is_told() {
        let mut reconnect = ReconnectPolicy::new();
        let quiet = |text: &str| panic!("said {text}");
        assert!(reconnect.wait(None, quiet).await.is_ok());
        let away = Some(Status::unavailable("the server is stopping"));
        assert!(reconnect.wait(away, quiet).await.is_ok());
        let refused = Some(Status::not_found("no such deployment"));
        assert!(reconnect.wait(refused, quiet).await.is_err());
    }
}
