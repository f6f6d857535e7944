//! Bytes in bulk: a file to a stream, and a stream to a durable file that was hashed and inflated
//! on the way.

use std::sync::Arc;

use async_compression::tokio::write::GzipDecoder;
use kernex_proto::{
    CHUNK_SIZE,
    v1::{
        Bundle, DownloadBundleRequest, DownloadBundleResponse, UploadBundleRequest,
        UploadBundleResponse, upload_bundle_request::Message,
    },
};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncSeekExt as _, AsyncWriteExt as _, BufWriter, Sink, sink},
};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::io::ReaderStream;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::Bare;

fn io(error: std::io::Error) -> Status {
    Status::internal(error.to_string())
}

pub(super) async fn download(
    bare: Arc<Bare>,
    request: Request<DownloadBundleRequest>,
) -> Result<Response<impl Stream<Item = Result<DownloadBundleResponse, Status>>>, Status> {
    let DownloadBundleRequest { digest, offset } = request.into_inner();
    let mut file = File::open(bare.folder.join(digest)).await.map_err(io)?;
    file.seek(std::io::SeekFrom::Start(offset))
        .await
        .map_err(io)?;
    let chunks = ReaderStream::with_capacity(file, CHUNK_SIZE);
    Ok(Response::new(chunks.map(|chunk| {
        chunk
            .map(|chunk| DownloadBundleResponse { chunk })
            .map_err(io)
    })))
}

pub(super) async fn upload(
    bare: Arc<Bare>,
    request: Request<Streaming<UploadBundleRequest>>,
) -> Result<Response<UploadBundleResponse>, Status> {
    let mut inbound = request.into_inner();
    let partial = bare.folder.join(format!("{}.partial", Uuid::now_v7()));
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&partial).await.map_err(io)?);
    let mut hasher = Sha256::new();
    let mut scan: GzipDecoder<Sink> = GzipDecoder::new(sink());
    let mut size_bytes = 0;
    while let Some(request) = inbound.message().await? {
        if let Some(Message::Chunk(chunk)) = request.message {
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(io)?;
            scan.write_all(&chunk).await.map_err(io)?;
            size_bytes += chunk.len() as u64;
        }
    }
    scan.shutdown().await.map_err(io)?;
    file.flush().await.map_err(io)?;
    file.get_ref().sync_all().await.map_err(io)?;
    let digest = hex::encode(hasher.finalize());
    tokio::fs::rename(&partial, bare.folder.join(&digest))
        .await
        .map_err(io)?;
    let folder = File::open(&bare.folder).await.map_err(io)?;
    folder.sync_all().await.map_err(io)?;
    Ok(Response::new(UploadBundleResponse {
        bundle: Some(Bundle {
            digest,
            size_bytes,
            ..Bundle::default()
        }),
        ..UploadBundleResponse::default()
    }))
}
