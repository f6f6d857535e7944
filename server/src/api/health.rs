//! `grpc.health.v1` and reflection: what orchestrators and generic clients ask before they know
//! Kernex.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::{Builder, Error};

use crate::{error::chain, store::Store};

/// The server as a whole, as the health protocol names it.
const WHOLE: &str = "";
const INTERVAL: Duration = Duration::from_secs(5);

/// Adds health and both versions of reflection. The reporter sets what health answers.
pub fn add(routes: Routes) -> Result<(Routes, HealthReporter), Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(kernex_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = routes
        .add_service(health)
        .add_service(builder().build_v1()?)
        .add_service(builder().build_v1alpha()?);
    Ok((routes, reporter))
}

/// Reports serving while the database answers, and not serving once `stop` is cancelled.
pub async fn watch(store: Store, reporter: HealthReporter, stop: CancellationToken) {
    let mut serving = true;
    reporter
        .set_service_status(WHOLE, ServingStatus::Serving)
        .await;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let answer = tokio::time::timeout(INTERVAL, store.ping()).await;
        let healthy = matches!(answer, Ok(Ok(())));
        if healthy == serving {
            continue;
        }
        serving = healthy;
        match answer {
            Ok(Ok(())) => tracing::info!("the database answers again"),
            Ok(Err(error)) => {
                tracing::error!(error = %chain(&error), "the database does not answer");
            }
            Err(_) => tracing::error!("the database does not answer in time"),
        }
        let status = if healthy {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        reporter.set_service_status(WHOLE, status).await;
    }
    reporter
        .set_service_status(WHOLE, ServingStatus::NotServing)
        .await;
}
