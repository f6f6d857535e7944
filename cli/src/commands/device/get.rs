//! `device get`

use kernex_proto::v1;

use crate::{
    args::OutputArg,
    commands::{Session, present},
    error::Failure,
    output::{Printer, device::DeviceView},
};

pub(super) async fn run(
    session: &Session,
    device: String,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let request = v1::GetDeviceRequest { device };
    let answer = client.devices().get_device(request).await?.into_inner();
    Printer::new(output.output).one(&DeviceView::from(present(answer.device, "device")?))
}
