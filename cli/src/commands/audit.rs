//! `audit`: who changed what, and who was refused.

use jiff::Timestamp;
use kernex_proto::v1;

use super::Session;
use crate::{
    args::{
        audit::{AuditArgs, AuditCommand},
        times::End,
    },
    client::pages,
    error::Failure,
    output::{Printer, audit::AuditView, print_note},
};

pub(crate) async fn run(session: &Session, command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::List(args) => list(session, args).await,
    }
}

async fn list(session: &Session, args: AuditArgs) -> Result<(), Failure> {
    let asked = request(&args);
    let client = &session.connect().await?;
    // One more than is printed: it shows whether there are more.
    let most = args.limit.saturating_add(1);
    let entries = pages(Some(most), |page_size, page_token| {
        let request = v1::ListAuditEntriesRequest {
            page_size,
            page_token,
            ..asked.clone()
        };
        async move {
            let page = client.audit().list_audit_entries(request).await?;
            let page = page.into_inner();
            Ok((page.entries, page.next_page_token))
        }
    })
    .await?;
    let is_cut = entries.len() > args.limit as usize;
    let views: Vec<AuditView> = entries
        .into_iter()
        .take(args.limit as usize)
        .map(AuditView::from)
        .collect();
    Printer::new(args.output.output).list(&views)?;
    if is_cut {
        print_note(&format!(
            "These are the newest {}; there are more, see --limit and --until.",
            args.limit
        ));
    }
    Ok(())
}

fn request(args: &AuditArgs) -> v1::ListAuditEntriesRequest {
    let word = |asked: &Option<String>| asked.clone().unwrap_or_default();
    v1::ListAuditEntriesRequest {
        principal: word(&args.by),
        token_id: word(&args.token),
        address: word(&args.from),
        method: word(&args.method),
        subject: word(&args.on),
        result: args
            .result
            .map_or(v1::AuditResult::Unspecified, Into::into)
            .into(),
        since: args.since.map(moment),
        until: args.until.map(moment),
        ..Default::default()
    }
}

/// A duration counts back from now.
fn moment(end: End) -> prost_types::Timestamp {
    let at = match end {
        End::At(at) => at,
        End::After(ago) => Timestamp::now()
            .saturating_sub(ago)
            .unwrap_or(Timestamp::MIN),
    };
    prost_types::Timestamp {
        seconds: at.as_second(),
        nanos: 0,
    }
}
