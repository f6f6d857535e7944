//! `device get`

use kernex_proto::v1;

use crate::{
    args::OutputArg,
    commands::{Session, present},
    error::Failure,
    output::{Printer, device::DeviceView, emit},
};

/// Shows devices: one as an object, several as a list.
pub(super) async fn run(
    session: &Session,
    devices: Vec<String>,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let mut views = Vec::new();
    for device in devices {
        let request = v1::GetDeviceRequest { device };
        let answer = client.devices().get_device(request).await?.into_inner();
        views.push(DeviceView::from(present(answer.device, "device")?));
    }
    let printer = Printer::new(output.output);
    if let [one] = views.as_slice() {
        return printer.one(one);
    }
    if !printer.for_people() {
        return printer.list(&views);
    }
    for (index, view) in views.iter().enumerate() {
        if index > 0 {
            emit("\n")?;
        }
        printer.one(view)?;
    }
    Ok(())
}
