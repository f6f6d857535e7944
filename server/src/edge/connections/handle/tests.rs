use tonic::Code;

use super::{super::Strangers, *};
use crate::{
    edge::connections::crowd::StrangerLimits,
    metrics::{Metrics, Transactions},
};

#[tokio::test]
async fn closing_reaches_the_task_and_the_first_reason_counts() {
    let handle = ConnectionHandle::default();
    let other = handle.clone();
    let (why, ()) = tokio::join!(handle.closed(), async {
        tokio::task::yield_now().await;
        other.close("first");
        other.close("second");
    });
    assert_eq!(why, "first");
    assert_eq!(handle.closed().await, "first", "also for who asks later");
    assert_eq!(handle.key(), other.key());
    assert_ne!(handle.key(), ConnectionHandle::default().key());
}

fn strangers(of_one_source: usize) -> (Arc<Strangers>, Arc<Metrics>) {
    let limits = StrangerLimits {
        probation: Duration::from_secs(15),
        patience: Duration::from_secs(2),
        of_one_source,
        in_all: 100,
    };
    let metrics = Arc::new(Metrics::new(Transactions::default()));
    (Strangers::new(limits, Arc::clone(&metrics)), metrics)
}

async fn stranger(strangers: &Arc<Strangers>) -> Presence {
    let presence = strangers.arrive();
    presence
        .handle()
        .wait_for_admission(([192, 0, 2, 1], 1).into())
        .await;
    presence
}

#[tokio::test]
async fn a_stranger_has_so_many_calls_and_who_is_known_has_more() {
    let (strangers, _) = strangers(0);
    let presence = stranger(&strangers).await;
    let handle = presence.handle();
    let mut calls: Vec<_> = (0..STRANGER_CALLS)
        .map(|_| handle.begin_call(false).expect("a call"))
        .collect();
    let refused = handle.begin_call(false).expect_err("too many");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    calls.pop();
    calls.push(handle.begin_call(false).expect("one is over"));
    assert!(handle.begin_call(false).is_err());
    handle.mark_known();
    assert!(handle.begin_call(false).expect("known").is_none());
    drop(calls);
    assert_eq!(handle.0.calls.load(SeqCst), 0);
}

#[tokio::test]
async fn watches_of_health_are_few_for_everybody() {
    let (strangers, _) = strangers(0);
    let presence = stranger(&strangers).await;
    let handle = presence.handle();
    handle.mark_known();
    let watches: Vec<_> = (0..WATCHES)
        .map(|_| handle.begin_call(true).expect("a watch"))
        .collect();
    assert!(handle.begin_call(true).is_err());
    assert!(handle.begin_call(false).is_ok());
    drop(watches);
    assert!(handle.begin_call(true).is_ok());
}

#[tokio::test]
async fn whoever_has_not_failed_may_always_try() {
    let (strangers, _) = strangers(0);
    let attacker = stranger(&strangers).await;
    let attacker = attacker.handle();
    let mut tries = 0;
    let refused = loop {
        if let Err(refused) = attacker.may_try(Credential::Bearer) {
            break refused;
        }
        attacker.failed(Credential::Bearer);
        tries += 1;
        assert!(tries < 1000, "tries without end");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let details = tonic_types::StatusExt::get_error_details(&refused);
    assert!(details.retry_info().is_some(), "{refused:?}");
    // At the same address.
    let honest = stranger(&strangers).await;
    assert!(honest.handle().may_try(Credential::Bearer).is_ok());
    honest.handle().failed(Credential::Bearer);
    assert!(honest.handle().may_try(Credential::Bearer).is_err());
    // Once it is known, its own mistake before does not matter.
    honest.handle().mark_known();
    assert!(honest.handle().may_try(Credential::Bearer).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stranger_is_closed_in_time_and_who_is_known_stays() {
    let (strangers, metrics) = strangers(0);
    let stop = tokio_util::sync::CancellationToken::new();
    let watching = Arc::clone(&strangers).watch(stop.clone());
    let (first, second) = (stranger(&strangers).await, stranger(&strangers).await);
    second.handle().mark_known();
    assert_eq!(metrics.edge.strangers.get(), 1);
    let closing = async {
        let began = tokio::time::Instant::now();
        let why = first.handle().closed().await;
        assert!(why.contains("in time"), "{why}");
        let took = began.elapsed();
        assert!((15.0..15.2).contains(&took.as_secs_f64()), "{took:?}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        stop.cancel();
    };
    tokio::join!(watching, closing);
    assert!(second.handle().0.why.get().is_none());
    let handle = first.handle().clone();
    drop(first);
    assert!(handle.is_stranger(), "also once it is gone");
    assert_eq!(metrics.edge.connections.with_label("unproven").get(), 1);
    assert_eq!(metrics.edge.strangers.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_comes_inside_when_another_is_known_or_gone_or_had_its_patience() {
    let (strangers, metrics) = strangers(1);
    let stop = tokio_util::sync::CancellationToken::new();
    let watching = Arc::clone(&strangers).watch(stop.clone());
    let coming = async {
        let first = stranger(&strangers).await;
        let (second, ()) = tokio::join!(stranger(&strangers), async {
            tokio::task::yield_now().await;
            first.handle().mark_known();
        });
        let (third, ()) = tokio::join!(stranger(&strangers), async {
            tokio::task::yield_now().await;
            drop(second);
        });
        // The third does nothing and only holds its place.
        let _fourth = stranger(&strangers).await;
        assert!(third.handle().closed().await.contains("too many"));
        assert_eq!(metrics.edge.connections.with_label("crowded").get(), 1);
        stop.cancel();
    };
    tokio::join!(watching, coming);
    drop(strangers);
}
