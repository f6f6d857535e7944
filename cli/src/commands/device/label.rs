//! `device label`

use kernex_proto::v1;

use crate::{
    args::{LabelChange, OutputArg},
    client::request_id,
    commands::{Session, present},
    error::Failure,
    output::{Printer, device::DeviceView},
};

pub(super) async fn run(
    session: &Session,
    device: String,
    changes: Vec<LabelChange>,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let mut request = v1::UpdateDeviceLabelsRequest {
        device,
        request_id: request_id(),
        ..Default::default()
    };
    for change in changes {
        match change {
            LabelChange::Set(key, value) => {
                request.set.insert(key, value);
            }
            LabelChange::Remove(key) => request.remove.push(key),
        }
    }
    let answer = client
        .devices()
        .update_device_labels(request)
        .await?
        .into_inner();
    Printer::new(output.output).list(&[DeviceView::from(present(answer.device, "device")?)])
}
