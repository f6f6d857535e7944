//! `bundle list`

use kernex_proto::v1;

use crate::{
    args::{OutputArg, listing::ListArgs},
    client::{Client, pages},
    commands::Session,
    error::Failure,
    output::{bundle::BundleView, listing::Listing},
};

pub(super) async fn run(
    session: &Session,
    name: &str,
    args: ListArgs,
    output: OutputArg,
) -> Result<(), Failure> {
    let bundles = list(&session.connect().await?, name).await?;
    let views: Vec<BundleView> = bundles.into_iter().map(BundleView::from).collect();
    let listing = Listing::new(args, output).narrowed(!name.is_empty());
    listing.print(views, None, "bundle")?;
    Ok(())
}

/// All bundles of a name, or of every name when it is empty.
pub(super) async fn list(client: &Client, name: &str) -> Result<Vec<v1::Bundle>, Failure> {
    pages(None, |page_size, page_token| {
        let request = v1::ListBundlesRequest {
            name: name.to_owned(),
            page_size,
            page_token,
        };
        async move {
            let page = client.bundles().list_bundles(request).await?.into_inner();
            Ok((page.bundles, page.next_page_token))
        }
    })
    .await
}
