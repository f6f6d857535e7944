//! `config delete`

use kernex_proto::v1;

use crate::{
    args::Consent,
    client::request_id,
    commands::{Session, confirm},
    error::Failure,
    output::print_note,
};

pub(super) async fn run(session: &Session, name: String, consent: Consent) -> Result<(), Failure> {
    confirm(consent, &format!("Delete the configuration {name}?"))?;
    let client = session.connect().await?;
    let request = v1::DeleteConfigurationRequest {
        name: name.clone(),
        request_id: request_id(),
    };
    client
        .configurations()
        .delete_configuration(request)
        .await?;
    print_note(&format!(
        "Deleted {name}; it no longer applies to its devices."
    ));
    Ok(())
}
