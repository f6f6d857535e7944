//! What waits is not lost when the recorder stops.

use super::*;
use crate::clock::Clock;
use kernex_proto::ids::TargetId;

#[tokio::test]
async fn what_waits_is_written_and_acknowledged_even_when_the_recorder_stops() {
    let dir = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", dir.path().join("test.db").display());
    let store = Store::open(&url, Clock::system()).await.expect("opens");
    store.migrate().await.expect("migrates");
    let stop = CancellationToken::new();
    let metrics = Arc::new(Metrics::new(store.figures().clone()));
    let (recorder, work) =
        Recorder::new(store, Arc::default(), Arc::default(), metrics, stop.clone());
    let (outbound, mut queue) = mpsc::channel(8);
    let session = SessionHandle::new(DeviceId::generate(), 1, outbound);
    for seq in 1..=3 {
        let submission = Submission {
            session: Arc::clone(&session),
            seq,
            attempt: AttemptId {
                target: TargetId::generate(),
                number: 1,
            },
            event: ReportEvent::Accepted,
            span: Span::none(),
        };
        assert!(recorder.report(submission).await);
    }
    stop.cancel();
    work.await;
    for seq in 1..=3 {
        let ack = queue.recv().await.and_then(|answer| answer.message);
        let expected = v1::Ack {
            seq,
            disposition: v1::Disposition::Unknown.into(),
        };
        assert_eq!(ack, Some(Message::Ack(expected)));
    }
}
