//! `config get`

use kernex_proto::v1;

use crate::{
    args::OutputArg,
    commands::Session,
    error::Failure,
    output::{Printer, configuration::DeviceConfigurationView},
};

/// Shows the configuration of one device.
pub(super) async fn run(
    session: &Session,
    device: String,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let request = v1::GetDeviceConfigurationRequest {
        device: device.clone(),
    };
    let answer = client
        .configurations()
        .get_device_configuration(request)
        .await?
        .into_inner();
    Printer::new(output.output).one(&DeviceConfigurationView::new(device, answer))
}
