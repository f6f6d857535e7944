//! `device resolve`

use kernex_proto::v1;

use crate::{
    args::{Consent, OutputArg},
    client::request_id,
    commands::{Session, confirm, present},
    error::Failure,
    output::{Printer, device::DeviceView},
};

pub(super) async fn run(
    session: &Session,
    device: String,
    allow_downgrade: bool,
    consent: Consent,
    output: OutputArg,
) -> Result<(), Failure> {
    let question = if allow_downgrade {
        format!(
            "Accept an older revision of the protocol from {device} once, and, if it is conflicted, keep the copy that connected last?"
        )
    } else {
        format!(
            "Keep the copy of {device} that connected last? Every other copy is refused until it enrols with a new key."
        )
    };
    confirm(consent, &question).await?;
    let client = session.connect().await?;
    let request = v1::ResolveDeviceRequest {
        device,
        request_id: request_id(),
        allow_downgrade,
    };
    let answer = client.devices().resolve_device(request).await?.into_inner();
    Printer::new(output.output).one(&DeviceView::from(present(answer.device, "device")?))
}
