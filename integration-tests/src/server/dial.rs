//! Ways into a control plane under test.

use std::{fs, path::Path};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::{operator::Operator, process::Process, wait::wait_for};

pub(super) fn url(port: u16, plaintext: bool) -> String {
    let scheme = if plaintext { "http" } else { "https" };
    format!("{scheme}://127.0.0.1:{port}")
}

pub(super) async fn dial(data: &Path, port: u16, plaintext: bool) -> Result<Channel, String> {
    let mut endpoint = Endpoint::from_shared(url(port, plaintext));
    if !plaintext {
        let ca = fs::read(data.join("ca.pem")).map_err(|error| format!("no ca.pem: {error}"))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        endpoint = endpoint.and_then(|endpoint| endpoint.tls_config(tls));
    }
    endpoint
        .map_err(|error| error.to_string())?
        .connect()
        .await
        .map_err(|error| format!("cannot connect: {error:?}"))
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
            let token = fs::read_to_string(data.join("admin.token"));
            let token = token.map_err(|error| format!("no admin.token: {error}"))?;
            let operator = Operator::new(dial(data, port, plaintext).await?, token.trim());
            operator
                .who_am_i()
                .await
                .map_err(|status| status.to_string())?;
            Ok(operator)
        }
    })
    .await
}
