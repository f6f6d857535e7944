//! `config delete`

use kernex_proto::{error::Reason, v1};

use crate::{
    args::Consent,
    client::request_id,
    commands::{Session, confirm},
    error::Failure,
    output::print_note,
};

pub(super) async fn run(session: &Session, name: String, consent: Consent) -> Result<(), Failure> {
    confirm(consent, &format!("Delete the configuration {name}?")).await?;
    let client = session.connect().await?;
    let request = v1::DeleteConfigurationRequest {
        name: name.clone(),
        request_id: request_id(),
    };
    let deleted = client.configurations().delete_configuration(request).await;
    deleted.map_err(|status| {
        let next = "See which there are with `kernexctl config list`.";
        Failure::of_call(status, Reason::NotFound, next)
    })?;
    print_note(&format!(
        "Deleted {name}; it no longer applies to its devices."
    ));
    Ok(())
}
