//! `config list`

use kernex_proto::v1;

use super::with_device_names;
use crate::{
    args::OutputArg,
    commands::Session,
    error::Failure,
    output::{Printer, configuration::ConfigurationView},
};

pub(super) async fn run(session: &Session, output: OutputArg) -> Result<(), Failure> {
    let client = session.connect().await?;
    let answer = client
        .configurations()
        .list_configurations(v1::ListConfigurationsRequest {})
        .await?
        .into_inner();
    let views = answer.configurations.into_iter().map(Into::into);
    let views: Vec<ConfigurationView> = views.collect();
    let printer = Printer::new(output.output);
    if !printer.for_people() {
        return printer.list(&views);
    }
    printer.list(&with_device_names(&client, views).await)
}
