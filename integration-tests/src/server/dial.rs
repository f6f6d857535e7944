//! gRPC channels to a server under test.

use std::{error::Error, fs, path::Path, time::Duration};

use kernex_proto::{
    connect::ControlPlane,
    handshake::ChannelBinding,
    trust::{Dates, PinnedCa},
};
use tonic::transport::Channel;

use crate::{operator::Operator, process::Process, wait::wait_for};

pub(super) fn url(port: u16, plaintext: bool) -> String {
    let scheme = if plaintext { "http" } else { "https" };
    format!("{scheme}://127.0.0.1:{port}")
}

/// Long, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

fn control_plane(data: &Path, port: u16, plaintext: bool) -> Result<ControlPlane, Box<dyn Error>> {
    let trust = if plaintext {
        None
    } else {
        let ca = fs::read_to_string(data.join("ca.pem"))?;
        Some(PinnedCa::from_pem(&ca, Dates::Count).ok_or("ca.pem is no certificate")?)
    };
    Ok(ControlPlane::new(&url(port, plaintext), trust, PATIENCE)?)
}

/// The admin token of a server's data folder.
pub(super) fn admin_token(data: &Path) -> Result<String, String> {
    let text = fs::read_to_string(data.join("admin.token"));
    let text = text.map_err(|error| format!("no admin.token: {error}"))?;
    Ok(text.trim().to_owned())
}

/// A channel that reconnects, as operators use.
pub(super) async fn dial(data: &Path, port: u16, plaintext: bool) -> Result<Channel, String> {
    let dialled = async {
        let control_plane = control_plane(data, port, plaintext)?;
        let endpoint = control_plane.endpoint();
        Ok::<_, Box<dyn Error>>(control_plane.channel(&endpoint).await?)
    };
    let dialled = dialled.await;
    dialled.map_err(|error| format!("cannot connect: {error:?}"))
}

/// One connection, as an agent has it, and what its sessions sign.
pub(super) async fn dial_once(
    data: &Path,
    port: u16,
    plaintext: bool,
) -> Result<(Channel, ChannelBinding), Box<dyn Error>> {
    let control_plane = control_plane(data, port, plaintext)?;
    let connection = control_plane.dial().await?;
    let binding = connection.binding;
    let channel = connection.into_channel(&control_plane.endpoint()).await?;
    Ok((channel, binding))
}

pub(super) async fn connect(
    process: &mut Process,
    data: &Path,
    port: u16,
    plaintext: bool,
) -> Operator {
    wait_for("the server to answer", || {
        let ended = process.exited();
        assert!(ended.is_none(), "the server ended: {ended:?}");
        async {
            let token = admin_token(data)?;
            let operator = Operator::new(dial(data, port, plaintext).await?, &token);
            operator
                .who_am_i()
                .await
                .map_err(|status| status.to_string())?;
            Ok(operator)
        }
    })
    .await
}
