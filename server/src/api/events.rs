//! `EventService`: the fleet's events for other services, from a cursor on.

use std::sync::Arc;

use async_stream::try_stream;
use kernex_proto::v1::{
    WatchEventsRequest, WatchEventsResponse, event_service_server::EventService,
};
use tonic::{Request, Response, Status};

use super::{Answers, Api, Turn, going_away, turn, watch};

/// Events read at once.
const BATCH: u32 = 500;

/// The service.
#[derive(Debug)]
pub struct Events(pub(super) Arc<Api>);

#[tonic::async_trait]
impl EventService for Events {
    type WatchEventsStream = Answers<WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let mut cursor = request.get_ref().after;
        let (store, draining) = (self.0.store.clone(), self.0.draining.clone());
        let answers = try_stream! {
            let mut changes = store.changes();
            loop {
                changes.mark_unchanged();
                let events = store.events_after(cursor, BATCH).await?;
                let more = events.len() == BATCH as usize;
                for event in events {
                    cursor = event.cursor;
                    yield WatchEventsResponse { event: Some(event.into()) };
                }
                if more {
                    continue;
                }
                match turn(&mut changes, &draining).await {
                    Turn::Look => {}
                    Turn::Stop => Err(going_away())?,
                }
            }
        };
        Ok(Response::new(watch(&self.0.metrics, answers)))
    }
}
