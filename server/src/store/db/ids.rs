//! Ids of rows, made from the store's clock.
//!
//! A UUIDv7 begins with its time, so an order of ids is an order of time. The time is the stamp of
//! the transaction that makes the row, not this machine's clock. Ids of one transaction grow in the
//! order in which they are made. Those of a later transaction are greater, because its stamp is.
//!
//! ```text
//! | 48 bits      | 4 | 12 + 20 bits                        | 2 | 42 bits |
//! | milliseconds | 7 | microseconds << 22, plus the count  |   | random  |
//! ```

use std::sync::atomic::{AtomicU32, Ordering};

use kernex_proto::ids::TokenId;
use uuid::Uuid;

use crate::{clock::Timestamp, store::db::store::OperatorStore};

/// Bits for the ids of one transaction. After so many it borrows from the next microsecond.
const COUNT_BITS: u32 = 22;

/// Microseconds within a millisecond (10 bits), and the count.
const COUNTER_BITS: u8 = 10 + COUNT_BITS as u8;

/// Makes the ids of one transaction.
#[derive(Debug)]
pub(crate) struct Ids {
    now: Timestamp,
    made: AtomicU32,
}

impl Ids {
    pub(crate) const fn at(now: Timestamp) -> Self {
        Self {
            now,
            made: AtomicU32::new(0),
        }
    }

    /// Greater than those made before.
    pub(crate) fn next(&self) -> Uuid {
        time_ordered(self.now, self.made.fetch_add(1, Ordering::Relaxed))
    }
}

/// The id that is number `count` of those made at `now`.
fn time_ordered(now: Timestamp, count: u32) -> Uuid {
    // Before 1970 there are no such ids. A clock that stands there still makes unique ones.
    let micros = u64::try_from(now.0).unwrap_or(0);
    let (seconds, micros) = (micros / 1_000_000, (micros % 1_000_000) as u32);
    let counter = (u128::from(micros % 1000) << COUNT_BITS) + u128::from(count);
    Uuid::new_v7(uuid::Timestamp::from_unix_time(
        seconds,
        micros * 1000,
        counter,
        COUNTER_BITS,
    ))
}

impl OperatorStore {
    /// The id of a token that is still to be made, because the token's text carries it.
    #[must_use]
    pub fn next_token_id(&self) -> TokenId {
        TokenId(time_ordered(self.0.now(), 0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{clock::Clock, store::Store};

    const NOON: Timestamp = Timestamp(1_764_417_600_123_456);

    #[test]
    fn ids_say_when_they_were_made_and_grow_with_count_and_time() {
        let ids = Ids::at(NOON);
        let mut made: Vec<Uuid> = (0..10_000).map(|_| ids.next()).collect();
        // One microsecond later, one millisecond later, and after the turn of a second.
        for later in [1, 1_000, 1_000_000] {
            made.push(time_ordered(Timestamp(NOON.0 + later), 0));
        }
        assert!(made.is_sorted_by(|one, next| one < next), "{made:?}");
        for id in &made {
            assert_eq!(id.get_version_num(), 7);
            let (seconds, nanos) = id.get_timestamp().expect("a time").to_unix();
            assert_eq!(seconds / 2, 1_764_417_600 / 2, "{nanos}");
        }
        let (seconds, nanos) = made[0].get_timestamp().expect("a time").to_unix();
        assert_eq!((seconds, nanos), (1_764_417_600, 123_000_000));
    }

    #[test]
    fn a_clock_out_of_range_still_makes_ids_of_their_own() {
        for now in [i64::MIN, -1, 0, i64::MAX].map(Timestamp) {
            assert_ne!(time_ordered(now, 0), time_ordered(now, 0), "{now:?}");
        }
    }

    #[tokio::test]
    async fn ids_follow_the_clock_of_the_store() {
        let dir = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let clock = Clock::system();
        let store = Store::open(&url, clock.clone()).await.expect("opens");
        store.migrate().await.expect("migrates");
        let make = async || {
            let made = store.write(|tx| async move { Ok((tx.now, tx.new_id(), tx.new_id())) });
            let (now, one, next) = made.await.expect("writes");
            let (seconds, nanos) = one.get_timestamp().expect("a time").to_unix();
            let millis = seconds * 1000 + u64::from(nanos) / 1_000_000;
            assert_eq!(millis, now.0 as u64 / 1000, "the time of its transaction");
            assert!(one < next);
            (one, next)
        };
        let (_, today) = make().await;
        clock.advance(Duration::from_secs(24 * 3600));
        let (tomorrow, last) = make().await;
        assert!(today < tomorrow);
        let (seconds, _) = tomorrow.get_timestamp().expect("a time").to_unix();
        let (before, _) = today.get_timestamp().expect("a time").to_unix();
        assert!(seconds - before >= 24 * 3600, "{before} {seconds}");
        assert!(store.for_operators().next_token_id().0 > last);
        // A little back: stamps still grow, and so do ids.
        clock.jump(-60);
        assert!(make().await.0 > last);
        // Far back: the store's clock stays.
        clock.jump(-24 * 3600);
        assert!(make().await.0 > tomorrow);
    }
}
