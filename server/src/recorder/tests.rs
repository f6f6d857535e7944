//! Waiting reports are written in order, and not lost when the recorder stops.

use super::*;
use crate::clock::Clock;
use kernex_proto::{
    ids::{JournalId, TargetId},
    v1::device_session_response::Message,
};
use prometheus_client::encoding::prometheus_text::encode;

async fn store(dir: &tempfile::TempDir) -> Store {
    let url = format!("sqlite://{}", dir.path().join("test.db").display());
    let store = Store::open(&url, Clock::system()).await.expect("opens");
    store.migrate().await.expect("migrates");
    store
}

fn attempt() -> AttemptId {
    AttemptId {
        target: TargetId::generate(),
        number: 1,
    }
}

#[tokio::test]
async fn progress_is_never_written_before_the_acceptance_that_came_before_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = store(&dir).await;
    let (outbound, _queue) = mpsc::channel(8);
    let session = SessionHandle::new(DeviceId::generate(), 1, JournalId::generate(), outbound);
    // Chance decides which of the two is taken first.
    for _ in 0..32 {
        let metrics = Arc::new(Metrics::new(store.figures().clone()));
        let stop = CancellationToken::new();
        let (recorder, work) = Recorder::new(
            store.clone(),
            Arc::default(),
            Arc::default(),
            Arc::clone(&metrics),
            stop.clone(),
        );
        let accepted = Submission {
            session: Arc::clone(&session),
            seq: 0,
            previous_outcome: None,
            attempt: attempt(),
            event: ReportEvent::Accepted,
            span: Span::none(),
            permit: session.recording_permit().await,
        };
        let of = accepted.attempt;
        assert!(recorder.report(accepted).await);
        recorder.progress(session.device, 1, of, v1::Progress::default());
        let written = async {
            while recorder.backlog().reports + recorder.backlog().progress > 0 {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        };
        tokio::join!(work, written);
        let mut scrape = String::new();
        encode(&mut scrape, &metrics.registry()).expect("encodes");
        let together = "kernex_report_flush_size_sum 2.0\nkernex_report_flush_size_count 1\n";
        assert!(scrape.contains(together), "{scrape}");
    }
}

#[tokio::test]
async fn what_waits_is_written_and_acknowledged_even_when_the_recorder_stops() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = store(&dir).await;
    let stop = CancellationToken::new();
    let metrics = Arc::new(Metrics::new(store.figures().clone()));
    let (recorder, work) =
        Recorder::new(store, Arc::default(), Arc::default(), metrics, stop.clone());
    let (outbound, mut queue) = mpsc::channel(8);
    let session = SessionHandle::new(DeviceId::generate(), 1, JournalId::generate(), outbound);
    for seq in 1..=3 {
        let submission = Submission {
            session: Arc::clone(&session),
            seq,
            previous_outcome: None,
            attempt: attempt(),
            event: ReportEvent::Accepted,
            span: Span::none(),
            permit: session.recording_permit().await,
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
