//! `FleetService`: the whole fleet in a few numbers.

use std::sync::Arc;

use kernex_proto::v1::{
    GetFleetSummaryRequest, GetFleetSummaryResponse, fleet_service_server::FleetService,
};
use tonic::{Request, Response, Status};

use super::Api;
use crate::error::invalid;

/// Entries of each list when the caller does not say.
const USUAL: u32 = 10;
/// Most entries of each list.
const MOST: u32 = 100;

#[derive(Debug)]
pub struct Fleet(pub(super) Arc<Api>);

#[tonic::async_trait]
impl FleetService for Fleet {
    async fn get_fleet_summary(
        &self,
        request: Request<GetFleetSummaryRequest>,
    ) -> Result<Response<GetFleetSummaryResponse>, Status> {
        let limit = match request.get_ref().limit {
            0 => USUAL,
            limit @ 1..=MOST => limit,
            _ => {
                return Err(invalid(
                    "limit",
                    format!("it has to be 1 to {MOST}, or 0 for {USUAL}"),
                ));
            }
        };
        let summary = self.0.view(&request)?.fleet_summary(limit).await?;
        Ok(Response::new(summary.into()))
    }
}
