use tonic::Code;

use super::*;
use crate::{
    edge::{
        answers::{feeder::End, measured::Measured, slots::SlotOwner},
        connections::ConnectionHandle,
    },
    metrics::Transactions,
};
use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tonic::body::Body;

const LIMIT: Duration = Duration::from_secs(30);

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn only_what_waits_and_does_not_move_is_ended_and_closed() {
    let start = Instant::now();
    let waits = |taken| AnswerState {
        waits: true,
        taken,
        stream: true,
        ended: false,
    };
    // A byte every 29 s is honest.
    let mut seen = Seen::new(start);
    for n in 1..100 {
        let verdict = seen.decide(waits(n), start + second(29 * n), LIMIT);
        assert_eq!(verdict, StallAction::Leave, "{n}");
    }
    // A quiet watch has no bytes to take.
    let mut seen = Seen::new(start);
    let quiet = AnswerState {
        waits: false,
        ..waits(5)
    };
    assert_eq!(
        seen.decide(quiet, start + second(3600), LIMIT),
        StallAction::Leave
    );
    assert_eq!(
        seen.decide(waits(5), start + second(3629), LIMIT),
        StallAction::Leave
    );
    assert_eq!(
        seen.decide(waits(5), start + second(3630), LIMIT),
        StallAction::End
    );
    let ended = AnswerState {
        ended: true,
        ..waits(5)
    };
    assert_eq!(
        seen.decide(ended, start + second(3659), LIMIT),
        StallAction::Leave
    );
    // Once it was ended, a byte now and then does not save it.
    let trickle = AnswerState { taken: 6, ..ended };
    assert_eq!(
        seen.decide(trickle, start + second(3660), LIMIT),
        StallAction::Close
    );

    // An answer that others ended has as long to take its end.
    let mut seen = Seen::new(start);
    assert_eq!(
        seen.decide(ended, start + second(1), LIMIT),
        StallAction::Leave
    );
    assert_eq!(
        seen.decide(trickle, start + second(31), LIMIT),
        StallAction::Close
    );

    // A single answer cannot be ended apart from its connection.
    let single = AnswerState {
        stream: false,
        ..waits(0)
    };
    let mut seen = Seen::new(start);
    assert_eq!(
        seen.decide(single, start + second(59), LIMIT),
        StallAction::Leave
    );
    assert_eq!(
        seen.decide(single, start + second(60), LIMIT),
        StallAction::Close
    );
}

fn answer(end: Option<End>) -> (Arc<Answer>, ConnectionHandle) {
    let connection = ConnectionHandle::default();
    let caller = SlotOwner::Connection(1);
    let mut answer = Answer::new("/x".into(), caller, connection.clone(), None);
    answer.end = end;
    (Arc::new(answer), connection)
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_takes_nothing_is_told_and_then_cut_off_and_one_who_takes_a_little_is_not() {
    let metrics = Arc::new(Metrics::new(Transactions::default()));
    let stalled = Arc::new(Stalled::new(LIMIT, Arc::clone(&metrics)));
    let frames = || {
        let frames = [Ok::<_, tonic::Status>(Frame::data(Bytes::from_static(
            &[0; 100],
        )))];
        Body::new(StreamBody::new(futures::stream::iter(frames)))
    };
    let (bad_end, good_end) = (End::default(), End::default());
    let (bad, bad_connection) = answer(Some(bad_end.clone()));
    let (good, good_connection) = answer(Some(good_end.clone()));
    stalled.watch(&bad);
    stalled.watch(&good);
    let mut bad_body = Measured::new(frames(), Some(bad));
    let mut good_body = Measured::new(frames(), Some(good));
    let _untaken = bad_body.frame().await;
    let slow = good_body.frame().await.expect("a frame").expect("is data");
    let mut slow = slow.into_data().expect("data");

    let stop = CancellationToken::new();
    let looking = Arc::clone(&stalled).run(stop.clone());
    let started = Instant::now();
    let reading = async {
        bad_end.ended().await;
        let told = started.elapsed();
        assert!(told >= LIMIT && told < LIMIT + second(3), "{told:?}");
        let status = bad_end.status().expect("a status");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("30 s"), "{status}");
        let why = bad_connection.closed().await;
        assert_eq!(why, "an answer on it was not read");
        let cut = started.elapsed() - told;
        assert!(cut >= LIMIT && cut < LIMIT + second(3), "{cut:?}");
        stop.cancel();
    };
    let honest = async {
        for _ in 0..99 {
            tokio::time::sleep(second(20)).await;
            slow.advance(1);
        }
        assert_eq!(good_end.status().map(|status| status.code()), None);
    };
    tokio::join!(looking, reading, honest);
    assert_eq!(metrics.edge.slow_readers.with_label("ended").get(), 1);
    assert_eq!(
        metrics.edge.slow_readers.with_label("disconnected").get(),
        1
    );
    drop(good_connection);
}
