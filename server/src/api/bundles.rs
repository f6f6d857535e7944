//! `BundleService`: bytes in, checked while they arrive; bytes out.
//!
//! The row says that a bundle exists, and the blob holds its bytes. Both change together, one
//! upload or deletion at a time, and a change is finished even when the caller hangs up.

pub(crate) mod upload;

use std::sync::Arc;

use kernex_proto::{
    ids::Digest,
    v1::{
        DeleteBundleRequest, DeleteBundleResponse, FetchBundleRequest, FetchBundleResponse,
        GetBundleRequest, GetBundleResponse, ListBundlesRequest, ListBundlesResponse,
        UploadBundleRequest, UploadBundleResponse, bundle_service_server::BundleService,
        upload_bundle_request,
    },
};
use tokio::sync::oneshot;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use self::upload::{Allowed, Upload};
use super::{
    Api, raw_body,
    wire::{fields::page, fitting::fitting_page},
};
use crate::{
    edge::auth::{caller, uploader},
    error::{chain, going_away, invalid},
    store::{BundleRow, Caller, Scope},
};

#[derive(Debug)]
pub struct Bundles(pub(super) Arc<Api>);

impl Bundles {
    /// Does `work` alone and to its end, even when the caller hangs up meanwhile.
    async fn uninterrupted<T, F>(&self, work: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let api = Arc::clone(&self.0);
        self.0.tasks.spawn(tracing::Span::current(), async move {
            let _only = api.bundle_changes.lock().await;
            // The caller may have hung up; the work is done.
            let _ = tell.send(work.await);
        });
        told.await.map_err(|_| going_away())?
    }

    /// Stores first the blob and then the row, so that a bundle that exists always has its bytes.
    async fn keep(&self, caller: Caller, upload: Upload) -> Result<(BundleRow, bool), Status> {
        let api = Arc::clone(&self.0);
        self.uninterrupted(async move {
            let digest = upload.bundle.digest;
            upload.blob.finish(digest).await?;
            match api.store.insert_bundle(&caller, upload.bundle).await {
                Ok(stored) => Ok(stored),
                Err(error) => {
                    drop_unused(&api, digest).await;
                    Err(error.into())
                }
            }
        })
        .await
    }
}

#[tonic::async_trait]
impl BundleService for Bundles {
    async fn upload_bundle(
        &self,
        request: Request<Streaming<UploadBundleRequest>>,
    ) -> Result<Response<UploadBundleResponse>, Status> {
        let caller = uploader(&request, "UploadBundle")?;
        let up = self.0.metrics.edge.bundle_bytes.with_label("up");
        let messages = request.into_inner().map(move |message| {
            if let Ok(UploadBundleRequest {
                message: Some(upload_bundle_request::Message::Chunk(chunk)),
            }) = &message
            {
                up.inc_by(chunk.len() as u64);
            }
            message
        });
        let settings = &self.0.settings;
        let allowed = Allowed {
            size: settings.max_bundle_size,
            limits: settings.archive_limits,
        };
        let mut upload = upload::receive(&self.0.blobs, allowed, messages).await?;
        let notes = std::mem::take(&mut upload.notes);
        let (bundle, existed) = self.keep(caller, upload).await?;
        tracing::info!(
            bundle = %format_args!("{}:{}", bundle.name, bundle.version),
            digest = %bundle.digest,
            size = bundle.size,
            existed,
            "bundle stored"
        );
        Ok(Response::new(UploadBundleResponse {
            bundle: Some(bundle.into()),
            existed,
            notes,
        }))
    }

    type FetchBundleStream = raw_body::NeverPolled<FetchBundleResponse>;

    async fn fetch_bundle(
        &self,
        request: Request<FetchBundleRequest>,
    ) -> Result<Response<Self::FetchBundleStream>, Status> {
        let view = self.0.view(&request)?;
        let FetchBundleRequest { bundle, offset } = request.into_inner();
        let bundle = view.get_bundle(&bundle).await?;
        if offset > bundle.size {
            return Err(invalid("offset", "it is beyond the end of the bundle"));
        }
        let bytes = self.0.blobs.read(bundle.digest, offset).await?;
        let down = self.0.metrics.edge.bundle_bytes.with_label("down");
        Ok(raw_body::answer(bytes, down))
    }

    async fn list_bundles(
        &self,
        request: Request<ListBundlesRequest>,
    ) -> Result<Response<ListBundlesResponse>, Status> {
        let view = self.0.view(&request)?;
        let request = request.into_inner();
        let page = page(request.page_size, request.page_token)?;
        let name = (!request.name.is_empty()).then_some(request.name.as_str());
        let (bundles, next_page_token) =
            fitting_page(page, |page| view.list_bundles(name, page)).await?;
        Ok(Response::new(ListBundlesResponse {
            bundles,
            next_page_token,
        }))
    }

    async fn get_bundle(
        &self,
        request: Request<GetBundleRequest>,
    ) -> Result<Response<GetBundleResponse>, Status> {
        let view = self.0.view(&request)?;
        let bundle = view.get_bundle(&request.get_ref().bundle).await?;
        Ok(Response::new(GetBundleResponse {
            bundle: Some(bundle.into()),
        }))
    }

    async fn delete_bundle(
        &self,
        request: Request<DeleteBundleRequest>,
    ) -> Result<Response<DeleteBundleResponse>, Status> {
        let caller = caller(&request, "DeleteBundle", &request.get_ref().request_id)?;
        let bundle = request.into_inner().bundle;
        let api = Arc::clone(&self.0);
        self.uninterrupted(async move {
            let deleted = api.store.delete_bundle(&caller, &bundle).await?;
            drop_unused(&api, deleted.digest).await;
            Ok(())
        })
        .await?;
        Ok(Response::new(DeleteBundleResponse {}))
    }
}

/// Deletes a blob that belongs to no bundle. The blob stays when this fails, or when nobody knows
/// whether a row was written. It only takes space then, and the next upload of the bytes reuses it.
async fn drop_unused(api: &Api, digest: Digest) {
    // The same bytes may be a bundle that the caller does not see.
    let every = api.store.view(Scope::Everything);
    let done = match every.digest_in_use(digest).await {
        Ok(true) => return,
        Ok(false) => api
            .blobs
            .delete(digest)
            .await
            .map_err(|error| chain(&error)),
        Err(error) => Err(chain(&error)),
    };
    if let Err(error) = done {
        tracing::warn!(%digest, error, "bytes of a bundle that is gone stay behind");
    }
}
