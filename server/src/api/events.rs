//! `EventService`: the fleet's events for other services, from a cursor on.

use std::sync::Arc;

use async_stream::try_stream;
use kernex_proto::v1::{
    WatchEventsRequest, WatchEventsResponse, event_service_server::EventService,
};
use tonic::{Request, Response, Status};

use super::{Api, feed::Start, watch, wire::filter::event_kinds};
use crate::{
    domain::event_kinds::is_of,
    edge::answers::{Fed, MANY},
};

#[derive(Debug)]
pub struct Events(pub(super) Arc<Api>);

#[tonic::async_trait]
impl EventService for Events {
    type WatchEventsStream = Fed<WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let scope = self.0.view(&request)?.scope();
        let request = request.into_inner();
        let start = if request.from_now {
            Start::Now
        } else {
            Start::After(request.after)
        };
        let kinds = event_kinds(request.kinds)?;
        let wanted = move |kind: &str| kinds.is_empty() || kinds.iter().any(|of| is_of(kind, of));
        let draining = self.0.draining.clone();
        let mut follower = self.0.feed.follow(scope, start, draining).await?;
        let answers = try_stream! {
            if request.from_now {
                // The watcher needs a cursor even if the stream ends before the first event.
                yield WatchEventsResponse { event: None, cursor: follower.cursor() };
            }
            loop {
                let mut sent = None;
                for event in follower.next().await? {
                    let cursor = event.cursor;
                    if wanted(&event.kind) {
                        sent = Some(cursor);
                        yield WatchEventsResponse { event: Some(event.into()), cursor };
                    }
                }
                if sent != Some(follower.cursor()) {
                    // A watcher that comes back need not read again what is of other kinds.
                    yield WatchEventsResponse { event: None, cursor: follower.cursor() };
                }
            }
        };
        Ok(watch(&self.0.metrics, MANY, answers))
    }
}
