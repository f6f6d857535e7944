//! `EventService`: the fleet's events for other services, from a cursor on.

use std::sync::Arc;

use async_stream::try_stream;
use kernex_proto::v1::{
    WatchEventsRequest, WatchEventsResponse, event_service_server::EventService,
};
use tonic::{Request, Response, Status};

use super::{Api, watch, wire::event_filter::EventFilter};
use crate::edge::answers::{Fed, MANY};

#[derive(Debug)]
pub struct Events(pub(super) Arc<Api>);

#[tonic::async_trait]
impl EventService for Events {
    type WatchEventsStream = Fed<WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let view = self.0.view(&request)?;
        let request = request.into_inner();
        let needs_cursor = request.from_now || request.since.is_some();
        let (filter, start) = EventFilter::read(&view, request).await?;
        let draining = self.0.draining.clone();
        let mut follower = self.0.feed.follow(view.scope(), start, draining).await?;
        let answers = try_stream! {
            if needs_cursor {
                // The watcher needs a cursor even if the stream ends before the first event.
                yield WatchEventsResponse { event: None, cursor: follower.cursor() };
            }
            loop {
                let mut sent = None;
                for event in follower.next().await? {
                    let cursor = event.cursor;
                    if filter.wants(&event) {
                        sent = Some(cursor);
                        yield WatchEventsResponse { event: Some(event.into()), cursor };
                    }
                }
                if sent != Some(follower.cursor()) {
                    // A watcher that comes back need not read again what it does not want.
                    yield WatchEventsResponse { event: None, cursor: follower.cursor() };
                }
            }
        };
        Ok(watch(&self.0.metrics, MANY, answers))
    }
}
