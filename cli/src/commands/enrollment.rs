//! `enrollment`: tokens that let devices in.

use kernex_proto::v1;

use super::{Session, confirm, present};
use crate::{
    args::EnrollmentCommand,
    client::{call, pages, request_id, timed},
    error::Failure,
    output::{Printer, access::EnrollmentView, say},
};

/// Runs one of the verbs.
pub(super) async fn run(session: &Session, command: EnrollmentCommand) -> Result<(), Failure> {
    match command {
        EnrollmentCommand::Create {
            uses,
            ttl,
            labels,
            replace,
            output,
        } => {
            let client = session.connect().await?;
            let request = v1::CreateEnrollmentTokenRequest {
                uses,
                ttl_seconds: ttl.as_secs(),
                labels: labels.into_iter().collect(),
                replaces_device: replace.unwrap_or_default(),
                request_id: request_id(),
            };
            let answer = call(
                "kernex.v1.AccessService/CreateEnrollmentToken",
                client.access().create_enrollment_token(timed(request)),
            )
            .await?;
            let view = EnrollmentView::from(present(answer.token, "token")?).with_text(answer.text);
            let printer = Printer::new(output.output);
            printer.one(&view)?;
            if printer.for_people() {
                say(
                    "The token is shown only now. Put it into a file; on the device: `kernex-agent enroll --server URL --token-file FILE`.",
                );
            }
            Ok(())
        }
        EnrollmentCommand::List { output } => {
            let client = session.connect().await?;
            let tokens = pages(None, |page_size, page_token| {
                let client = client.clone();
                async move {
                    let request = v1::ListEnrollmentTokensRequest {
                        page_size,
                        page_token,
                    };
                    let page = call(
                        "kernex.v1.AccessService/ListEnrollmentTokens",
                        client.access().list_enrollment_tokens(timed(request)),
                    )
                    .await?;
                    Ok((page.tokens, page.next_page_token))
                }
            })
            .await?;
            let views: Vec<EnrollmentView> = tokens.into_iter().map(EnrollmentView::from).collect();
            Printer::new(output.output).list(&views)
        }
        EnrollmentCommand::Revoke { id, consent } => {
            confirm(consent, &format!("Revoke the enrolment token {id}?"))?;
            let client = session.connect().await?;
            let request = v1::RevokeEnrollmentTokenRequest {
                token_id: id.clone(),
                request_id: request_id(),
            };
            call(
                "kernex.v1.AccessService/RevokeEnrollmentToken",
                client.access().revoke_enrollment_token(timed(request)),
            )
            .await?;
            say(&format!(
                "The token {id} lets nobody in any more; devices that used it stay."
            ));
            Ok(())
        }
    }
}
