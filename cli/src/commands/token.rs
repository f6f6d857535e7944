//! `token`: who may operate.

use kernex_proto::{error::Reason, v1};

use super::{Session, confirm, print_pages};
use crate::{
    args::{
        Consent, OutputArg,
        token::{Role, TokenCommand},
    },
    client::{pages, request_id},
    error::{Exit, Failure, reason},
    output::{
        Printer, Time, print_note,
        token::{NewTokenView, TokenView},
    },
};

pub(crate) async fn run(session: &Session, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create {
            name,
            role,
            ttl,
            output,
        } => create(session, name, role, ttl.as_secs(), output).await,
        TokenCommand::List { all, output } => list(session, all, output).await,
        TokenCommand::Revoke { token, consent } => revoke(session, token, consent).await,
    }
}

async fn create(
    session: &Session,
    name: String,
    role: Role,
    ttl_seconds: u64,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let role = v1::Role::from(role);
    let request = v1::CreateOperatorTokenRequest {
        name: name.clone(),
        role: role.into(),
        ttl_seconds,
        request_id: request_id(),
    };
    let made = client.access().create_operator_token(request).await;
    let made = made.map_err(|status| match reason(&status) {
        Some(Reason::AlreadyExists) => Failure::new(
            Exit::NotFoundOrConflict,
            status.message(),
            "See which there are with `kernexctl token list`; one is revoked with `kernexctl token revoke NAME`.",
        ),
        _ => Failure::from(status),
    })?;
    let printer = Printer::new(output.output);
    printer.one(&NewTokenView::new(name, role, made.into_inner()))?;
    if printer.for_people() {
        print_note(
            "The token is shown only now. Put it into a file; then: `kernexctl context add NAME --server URL --ca FILE --token-file FILE`.",
        );
    }
    Ok(())
}

async fn list(session: &Session, all: bool, output: OutputArg) -> Result<(), Failure> {
    let client = &session.connect().await?;
    let fetch = |page_size, page_token| {
        let request = v1::ListOperatorTokensRequest {
            page_size,
            page_token,
        };
        async move {
            let page = client.access().list_operator_tokens(request).await?;
            let page = page.into_inner();
            Ok((page.tokens, page.next_page_token))
        }
    };
    if all {
        return print_pages::<TokenView, _, _, _>(None, output, fetch).await;
    }
    let now = Time::now();
    let mut tokens = Vec::new();
    let mut ended = 0_usize;
    for token in pages(None, fetch).await? {
        let view = TokenView::from(token);
        if view.works(now) {
            tokens.push(view);
        } else {
            ended += 1;
        }
    }
    let printer = Printer::new(output.output);
    printer.list(&tokens)?;
    if printer.for_people() && ended > 0 {
        print_note(&format!("{ended} more have ended; `--all` shows them."));
    }
    Ok(())
}

async fn revoke(session: &Session, token: String, consent: Consent) -> Result<(), Failure> {
    let client = session.connect().await?;
    let caller = client.access().who_am_i(v1::WhoAmIRequest {}).await?;
    let is_own = is_token_of(&caller.into_inner(), &token);
    let question = if is_own {
        format!("Revoke the token {token}? This command uses it: nothing works with it afterwards.")
    } else {
        format!("Revoke the token {token}?")
    };
    confirm(consent, &question).await?;
    let request = v1::RevokeOperatorTokenRequest {
        token_id: token.clone(),
        request_id: request_id(),
    };
    let revoked = client.access().revoke_operator_token(request).await;
    revoked.map_err(|status| match reason(&status) {
        Some(Reason::NotFound) => Failure::new(
            Exit::NotFoundOrConflict,
            format!("there is no token with the id or name `{token}` that works"),
            "See which there are with `kernexctl token list`.",
        ),
        _ => Failure::from(status),
    })?;
    print_note(&format!("The token {token} is revoked."));
    if is_own {
        print_note(
            "It was the one of this context: go on with another, `kernexctl context add NAME --server URL --ca FILE --token-file \
             FILE --replace`. Where none is left, `kernex-server admin-token` on the server makes one.",
        );
    }
    Ok(())
}

/// Whether a text names the token that a caller uses.
fn is_token_of(caller: &v1::WhoAmIResponse, text: &str) -> bool {
    !text.is_empty() && (caller.token_id.eq_ignore_ascii_case(text) || caller.name == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_of_the_caller_is_known_by_its_id_and_its_name() {
        let caller = v1::WhoAmIResponse {
            name: "admin".into(),
            token_id: "01a22470-1f3c-7abc-8def-000000000001".into(),
            ..Default::default()
        };
        assert!(is_token_of(&caller, "admin"));
        assert!(is_token_of(&caller, "01A22470-1f3c-7abc-8def-000000000001"));
        assert!(!is_token_of(&caller, "ci") && !is_token_of(&caller, ""));
    }
}
