use kernex_proto::manifest::Manifest;
use proptest::prelude::*;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

fn health(interval: u64, retries: u64, hold: u64) -> Health {
    let manifest = json!({"version": "1", "health": {
        "tcp": "localhost:1", "interval_seconds": interval, "retries": retries, "hold_seconds": hold
    }});
    let manifest = Manifest::parse(manifest.to_string().as_bytes());
    manifest.unwrap().health.unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Lets probes that take a second each end as told, and says how the watch ended and when.
fn play(health: &Health, results: &[bool]) -> (HealthVerdict, u64) {
    let mut watch = HealthWatch::new(health);
    let mut at = seconds(100);
    let mut verdict = HealthVerdict::Wait(at);
    for healthy in results {
        let end = at + seconds(1);
        verdict = watch.observe(*healthy, at, end);
        match verdict {
            HealthVerdict::Wait(next) => at = next,
            _ => return (verdict, end.as_secs() - 100),
        }
    }
    (verdict, at.as_secs() - 100)
}

#[test]
fn results_and_time_decide() {
    use HealthVerdict::{Healthy, Unhealthy, Wait};
    let (t, f) = (true, false);
    let table: [(_, &[bool], _); 9] = [
        ((5, 0, 0), &[t], (Healthy, 1)),
        ((5, 0, 0), &[f], (Unhealthy, 1)),
        ((5, 2, 0), &[f, f, t], (Healthy, 13)),
        ((5, 2, 0), &[f, f, f], (Unhealthy, 13)),
        // Held from the end of the first success: at 1, 7 and the last at 11.
        ((5, 0, 10), &[t, t, t], (Healthy, 12)),
        ((5, 0, 10), &[t, f], (Unhealthy, 7)),
        // A forgiven failure starts the hold anew.
        ((5, 1, 10), &[t, f, t, t], (Wait(seconds(123)), 23)),
        // Coming and going is not forgiven for ever.
        ((5, 1, 10), &[t, f, t, f], (Unhealthy, 19)),
        // The last probe does not wait for a whole interval.
        ((60, 0, 10), &[t, t], (Healthy, 12)),
    ];
    for ((interval, retries, hold), results, wanted) in table {
        let health = health(interval, retries, hold);
        assert_eq!(play(&health, results), wanted, "{health:?} {results:?}");
    }
}

proptest! {
    #[test]
    fn it_always_ends_and_never_on_too_little(
        interval in 1..20_u64, retries in 0..5_u64, hold in 0..60_u64,
        results in prop::collection::vec(any::<bool>(), 1000),
    ) {
        let health = health(interval, retries, hold);
        let mut watch = HealthWatch::new(&health);
        let (mut at, mut streak, mut failures) = (seconds(0), None, 0);
        let mut ended = false;
        for healthy in results {
            if healthy { streak = streak.or(Some(at)); } else { streak = None; failures += 1; }
            match watch.observe(healthy, at, at) {
                HealthVerdict::Healthy => {
                    prop_assert!(at - streak.unwrap() >= seconds(hold));
                    ended = true;
                }
                HealthVerdict::Unhealthy => {
                    prop_assert_eq!(failures, retries + 1);
                    ended = true;
                }
                HealthVerdict::Wait(next) => {
                    prop_assert!(next > at && next <= at + seconds(interval));
                    at = next;
                }
            }
            if ended { break; }
        }
        // Failures are bounded, and between two of them there is at most one hold.
        prop_assert!(ended);
    }
}

async fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let read = stream.read(&mut request).await.unwrap();
        assert!(request[..read].starts_with(b"GET /health?x=1 HTTP/1.1\r\n"));
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    format!("http://{address}/health?x=1")
}

#[tokio::test]
async fn http_is_healthy_by_its_status() {
    for (answer, healthy) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
        (
            "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            true,
        ),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", false),
        ("no http at all\r\n\r\n", false),
        ("", false),
    ] {
        let address = answering(answer).await;
        let probed = probe_http(&address).await;
        assert_eq!(probed.is_ok(), healthy, "{answer:?}: {probed:?}");
    }
}

#[tokio::test]
async fn tcp_is_healthy_when_somebody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(probe_tcp(&address).await, Ok(()));
    drop(listener);
    assert!(probe_tcp(&address).await.unwrap_err().contains(&address));
    assert!(probe_http(&format!("http://{address}/")).await.is_err());
}
