//! `enrollment`: tokens that let devices in.

use kernex_proto::v1;

use super::{Session, confirm, present, print_pages};
use crate::{
    args::{Consent, EnrollmentCommand, OutputArg},
    client::request_id,
    error::Failure,
    output::{Printer, access::EnrollmentView, print_note},
};

pub(crate) async fn run(session: &Session, command: EnrollmentCommand) -> Result<(), Failure> {
    match command {
        EnrollmentCommand::Create {
            uses,
            ttl,
            labels,
            replace,
            output,
        } => {
            let request = v1::CreateEnrollmentTokenRequest {
                uses,
                ttl_seconds: ttl.as_secs(),
                labels: labels.into_iter().collect(),
                replaces_device: replace.unwrap_or_default(),
                request_id: request_id(),
            };
            create(session, request, output).await
        }
        EnrollmentCommand::List { output } => list(session, output).await,
        EnrollmentCommand::Revoke { id, consent } => revoke(session, id, consent).await,
    }
}

async fn create(
    session: &Session,
    request: v1::CreateEnrollmentTokenRequest,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let answer = client
        .access()
        .create_enrollment_token(request)
        .await?
        .into_inner();
    let view = EnrollmentView::from(present(answer.token, "token")?).with_text(answer.text);
    let printer = Printer::new(output.output);
    printer.one(&view)?;
    if printer.for_people() {
        print_note(
            "The token is shown only now. Put it into a file; on the device: `kernex-agent enroll --server URL --token-file FILE`.",
        );
    }
    Ok(())
}

async fn list(session: &Session, output: OutputArg) -> Result<(), Failure> {
    let client = &session.connect().await?;
    print_pages::<EnrollmentView, _, _, _>(None, output, |page_size, page_token| {
        let request = v1::ListEnrollmentTokensRequest {
            page_size,
            page_token,
        };
        async move {
            let page = client
                .access()
                .list_enrollment_tokens(request)
                .await?
                .into_inner();
            Ok((page.tokens, page.next_page_token))
        }
    })
    .await
}

async fn revoke(session: &Session, id: String, consent: Consent) -> Result<(), Failure> {
    confirm(consent, &format!("Revoke the enrolment token {id}?"))?;
    let client = session.connect().await?;
    let request = v1::RevokeEnrollmentTokenRequest {
        token_id: id.clone(),
        request_id: request_id(),
    };
    client.access().revoke_enrollment_token(request).await?;
    print_note(&format!(
        "The token {id} is revoked; devices that used it stay."
    ));
    Ok(())
}
