//! A caller's deadline (`grpc-timeout`). When it has passed nobody waits for the answer, so the
//! server stops working on it.

use std::{convert::Infallible, time::Duration};

use http::{HeaderMap, Response};
use tonic::body::Body;

use crate::error::call_too_slow;

/// The deadline in the headers. `None` when there is none, or one that makes no sense.
pub(super) fn from_headers(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get("grpc-timeout")?.to_str().ok()?)
}

/// At most eight digits and a unit, as gRPC's protocol over HTTP/2 says.
fn parse(text: &str) -> Option<Duration> {
    let (amount, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if amount.is_empty() || amount.len() > 8 || !amount.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount = amount.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The shorter of the caller's deadline and the longest time of a call.
pub(super) fn at_most(asked: Option<Duration>, longest: Duration) -> Duration {
    asked.map_or(longest, |asked| asked.min(longest))
}

/// Waits for the answer until `limit`. Then it answers DEADLINE_EXCEEDED instead. A stream that has
/// begun by then goes on.
pub(super) async fn within<B: From<Body>>(
    limit: Option<Duration>,
    answer: impl Future<Output = Result<Response<B>, Infallible>>,
) -> Result<Response<B>, Infallible> {
    let Some(limit) = limit else {
        return answer.await;
    };
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => Ok(call_too_slow().into_http().map(|body: Body| body.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_as_the_protocol_writes_it() {
        let table = [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("42S", Some(Duration::from_secs(42))),
            ("250m", Some(Duration::from_millis(250))),
            ("9u", Some(Duration::from_micros(9))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0S", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789n", None),
            ("-1S", None),
            ("+1S", None),
            ("1", None),
            ("S", None),
            ("", None),
            ("1s", None),
            ("1é", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_after_the_deadline_is_a_status() {
        let never = within::<Body>(Some(Duration::from_secs(1)), std::future::pending());
        let Ok(response) = never.await;
        assert_eq!(response.headers()["grpc-status"], "4");

        let answer = std::future::ready(Ok(Response::new(Body::empty())));
        let Ok(response) = within(Some(Duration::from_secs(1)), answer).await;
        assert!(response.headers().get("grpc-status").is_none());
    }
}
