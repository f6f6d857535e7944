//! The reconnect policy of watches: how one continues after its stream was cut, and what it says
//! while the server does not answer.
//!
//! | the server | what happens |
//! |---|---|
//! | is away for less than 5 s | it is tried again, without a message |
//! | is away for longer, or silent and answers no question either | that is said once |
//! | is back after that | that is said, too |
//! | has been away for 60 s, or refuses what cannot pass | the watch fails |
//!
//! A watch on which nothing happens is no server that is away: time counts from the moment at which
//! the stream was lost.

use std::{future::Future, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use kernex_proto::v1;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};

use crate::{
    client::Client,
    error::{Exit, Failure, is_passing},
};

/// How long a server may be away before the watch gives up.
const LIMIT: Duration = Duration::from_secs(60);
/// A server that is away for less than this is not mentioned: it may be restarting.
const WARN_AFTER: Duration = Duration::from_secs(5);
/// Pauses between two tries: doubled from the first up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// After so long without a message the server is asked whether it is there. A connection that broke
/// without a word is noticed by pings far later.
const QUIET: Duration = Duration::from_secs(15);
/// A server that does not answer within this time is away.
const PATIENCE: Duration = Duration::from_secs(5);

const AWAY: &str = "The server cannot be reached at the moment; trying again...";
const BACK: &str = "The server answers again.";

/// Decides whether a watch tries again, and when.
#[derive(Debug)]
pub(crate) struct ReconnectPolicy {
    /// When the stream was lost; none while there is one.
    lost_at: Option<Instant>,
    pauses: ExponentialBackoff,
    has_warned: bool,
}

impl ReconnectPolicy {
    /// A policy for a server that has just answered.
    pub(crate) fn new() -> Self {
        Self {
            lost_at: None,
            pauses: ExponentialBuilder::new()
                .with_min_delay(FIRST_PAUSE)
                .with_max_delay(LONGEST_PAUSE)
                .without_max_times()
                .build(),
            has_warned: false,
        }
    }

    /// The next message of a stream. While none comes, `say` hears when the server does not answer
    /// any more, and when it does again.
    pub(crate) async fn next<T>(
        &mut self,
        client: &Client,
        stream: &mut Streaming<T>,
        say: impl Fn(&str),
    ) -> Result<Option<T>, Status> {
        let next = self.watched(stream.message(), || is_there(client), &say);
        let message = next.await?;
        if message.is_some() {
            self.note_answer(say);
        }
        Ok(message)
    }

    /// The server sent something: everything starts again.
    pub(crate) fn note_answer(&mut self, say: impl Fn(&str)) {
        self.is_back(say);
        *self = Self::new();
    }

    /// Waits for `message`, and asks from time to time whether the server `is_there`.
    async fn watched<T, F: Future<Output = bool>>(
        &mut self,
        message: impl Future<Output = T>,
        is_there: impl Fn() -> F,
        say: &impl Fn(&str),
    ) -> T {
        let mut message = std::pin::pin!(message);
        loop {
            let asked = async {
                sleep(QUIET).await;
                is_there().await
            };
            tokio::select! {
                message = &mut message => return message,
                is_there = asked => if is_there {
                    self.is_back(say);
                } else {
                    self.is_away(say);
                },
            }
        }
    }

    fn is_away(&mut self, say: impl Fn(&str)) {
        if !self.has_warned {
            say(AWAY);
            self.has_warned = true;
        }
    }

    fn is_back(&mut self, say: impl Fn(&str)) {
        if self.has_warned {
            say(BACK);
            self.has_warned = false;
        }
    }

    /// Waits before the next try, after a stream ended with this status or without one. Fails when
    /// trying again makes no sense.
    pub(crate) async fn wait(
        &mut self,
        ended: Option<Status>,
        say: impl Fn(&str),
    ) -> Result<(), Failure> {
        let away = self.lost_at.get_or_insert_with(Instant::now).elapsed();
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
        if away >= WARN_AFTER {
            self.is_away(say);
        }
        let pause = self.pauses.next().unwrap_or(LONGEST_PAUSE);
        sleep(pause).await;
        Ok(())
    }
}

/// Whether the server answers anything, also that it refuses the question.
async fn is_there(client: &Client) -> bool {
    let mut access = client.access();
    let answer = timeout(PATIENCE, access.who_am_i(v1::WhoAmIRequest {}));
    match answer.await {
        Ok(Ok(_)) => true,
        Ok(Err(status)) => !is_passing(&status),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn away() -> Option<Status> {
        Some(Status::unavailable("the server is stopping"))
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_again_and_what_does_not_is_told() {
        let mut reconnect = ReconnectPolicy::new();
        let quiet = |text: &str| panic!("said {text}");
        assert!(reconnect.wait(None, quiet).await.is_ok());
        assert!(reconnect.wait(away(), quiet).await.is_ok());
        let refused = Some(Status::not_found("no such deployment"));
        assert!(reconnect.wait(refused, quiet).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_away_is_told_once_and_given_up_after_a_minute() {
        let said = RefCell::new(Vec::new());
        let say = |text: &str| said.borrow_mut().push(text.to_owned());
        let mut reconnect = ReconnectPolicy::new();
        // However long nothing happened before: the server was there.
        sleep(Duration::from_secs(3600)).await;
        let lost = Instant::now();
        let failure = loop {
            if let Err(failure) = reconnect.wait(away(), say).await {
                break failure;
            }
        };
        assert_eq!(failure.exit, Exit::Unreachable);
        let took = lost.elapsed();
        assert!(
            took >= LIMIT && took < LIMIT + 2 * LONGEST_PAUSE,
            "{took:?}"
        );
        assert_eq!(*said.borrow(), [AWAY]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_falls_silent_is_told_and_that_it_is_back() {
        let said = RefCell::new(Vec::new());
        let say = |text: &str| said.borrow_mut().push(text.to_owned());
        let mut reconnect = ReconnectPolicy::new();
        let asked = Cell::new(0);
        let is_there = || {
            asked.set(asked.get() + 1);
            let answers = !matches!(asked.get(), 3 | 4);
            async move { answers }
        };
        let later = |quiet: Duration| async move {
            sleep(quiet).await;
            7
        };
        // A watch on which nothing happens says nothing.
        let message = reconnect.watched(later(QUIET * 5 / 2), is_there, &say);
        assert_eq!((message.await, asked.get()), (7, 2));
        assert_eq!(*said.borrow(), [""; 0]);
        let message = reconnect.watched(later(QUIET * 7 / 2), is_there, &say);
        assert_eq!((message.await, asked.get()), (7, 5));
        assert_eq!(*said.borrow(), [AWAY, BACK]);
    }
}
