//! `bundle get`

use kernex_proto::v1;

use crate::{
    args::OutputArg,
    client::Client,
    commands::{Session, present},
    error::Failure,
    output::{Printer, bundle::BundleView},
};

pub(super) async fn run(session: &Session, bundle: &str, output: OutputArg) -> Result<(), Failure> {
    let bundle = find(&session.connect().await?, bundle).await?;
    Printer::new(output.output).one(&BundleView::from(bundle))
}

/// One bundle by name:version or digest.
pub(super) async fn find(client: &Client, bundle: &str) -> Result<v1::Bundle, Failure> {
    let request = v1::GetBundleRequest {
        bundle: bundle.to_owned(),
    };
    let answer = client.bundles().get_bundle(request).await?.into_inner();
    present(answer.bundle, "bundle")
}
