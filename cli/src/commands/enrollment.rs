//! `enrollment`: tokens that let devices in.

use kernex_proto::{
    handshake::{EnrollmentToken, WebPki},
    v1,
};

use super::{Session, confirm, present, print_pages};
use crate::{
    args::{Consent, OutputArg, enrollment::EnrollmentCommand},
    client::request_id,
    error::{Exit, Failure},
    output::{Printer, access::EnrollmentView, print_note},
};

pub(crate) async fn run(session: &Session, command: EnrollmentCommand) -> Result<(), Failure> {
    match command {
        EnrollmentCommand::Create {
            uses,
            ttl,
            labels,
            replace,
            webpki,
            output,
        } => {
            let request = v1::CreateEnrollmentTokenRequest {
                uses,
                ttl_seconds: ttl.as_secs(),
                labels: labels.into_iter().collect(),
                replaces_device: replace.unwrap_or_default(),
                request_id: request_id(),
            };
            create(session, request, webpki, output).await
        }
        EnrollmentCommand::List { output } => list(session, output).await,
        EnrollmentCommand::Revoke { id, consent } => revoke(session, id, consent).await,
    }
}

async fn create(
    session: &Session,
    request: v1::CreateEnrollmentTokenRequest,
    webpki: Option<String>,
    output: OutputArg,
) -> Result<(), Failure> {
    if let Some(name) = &webpki {
        check_name(name)?;
    }
    let client = session.connect().await?;
    let answer = client
        .access()
        .create_enrollment_token(request)
        .await?
        .into_inner();
    let text = match webpki {
        Some(name) => known_by_name(&answer.text, name)?,
        None => answer.text,
    };
    let view = EnrollmentView::from(present(answer.token, "token")?).with_text(text);
    let printer = Printer::new(output.output);
    printer.one(&view)?;
    if printer.for_people() {
        print_note(
            "The token is shown only now. Put it into a file; on the device: `kernex-agent enroll --server URL --token-file FILE`.",
        );
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let is_name = !name.is_empty() && name.len() <= 253 && name.bytes().all(plain);
    if is_name {
        return Ok(());
    }
    Err(Failure::usage(
        format!("`{name}` is not a name that a certificate can have"),
        "Write the server's host name, without scheme and port: `--webpki kernex.example.com`.",
    ))
}

/// Adds to a token's text that devices verify the server by this name and by the authorities their
/// machines trust. The server does not need to know.
fn known_by_name(text: &str, name: String) -> Result<String, Failure> {
    let mut token: EnrollmentToken = text.parse().map_err(|_| {
        Failure::new(
            Exit::Error,
            "the server made a token of a kind that this kernexctl does not know",
            "Use a kernexctl of the server's version.",
        )
    })?;
    // Devices refuse certificates that had expired before this moment.
    let now = jiff::Timestamp::now().as_second();
    token.webpki = Some(WebPki {
        name,
        since: u64::try_from(now).unwrap_or(0),
    });
    Ok(token.to_text())
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
    confirm(consent, &format!("Revoke the enrolment token {id}?")).await?;
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
