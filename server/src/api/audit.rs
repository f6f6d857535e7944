//! `AuditService`: who changed what, and who was refused.

use std::sync::Arc;

use kernex_proto::v1::{
    ListAuditEntriesRequest, ListAuditEntriesResponse, audit_service_server::AuditService,
};
use tonic::{Request, Response, Status};

use super::{
    Api,
    wire::{audit::filter, fields::page, fitting::fitting_page},
};

#[derive(Debug)]
pub struct Audit(pub(super) Arc<Api>);

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_audit_entries(
        &self,
        request: Request<ListAuditEntriesRequest>,
    ) -> Result<Response<ListAuditEntriesResponse>, Status> {
        let view = self.0.view(&request)?;
        let request = request.into_inner();
        let filter = &filter(&request)?;
        let page = page(request.page_size, request.page_token)?;
        self.0.authenticator.write_sightings().await?;
        let (entries, next_page_token) =
            fitting_page(page, |page| view.list_audit(filter, page)).await?;
        Ok(Response::new(ListAuditEntriesResponse {
            entries,
            next_page_token,
        }))
    }
}
