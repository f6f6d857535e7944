//! `whoami` and `version`: who the server takes the caller for, and whether both programs belong
//! together.

use kernex_proto::v1;

use super::Session;
use crate::{
    args::OutputArg,
    error::Failure,
    output::{
        Printer, print_note,
        whoami::{VersionView, WhoAmIView, skew},
    },
};

pub(crate) async fn whoami(session: &Session, output: OutputArg) -> Result<(), Failure> {
    let answer = ask(session).await?;
    Printer::new(output.output).one(&WhoAmIView::from(answer))
}

pub(crate) async fn version(
    session: &Session,
    client_only: bool,
    output: OutputArg,
) -> Result<(), Failure> {
    let server = if client_only {
        None
    } else {
        Some(ask(session).await)
    };
    let printer = Printer::new(output.output);
    let found = server.as_ref().and_then(|answer| answer.as_ref().ok());
    let version = found.map(|answer| answer.server_version.clone());
    let view = VersionView::new(version.clone());
    printer.one(&view)?;
    if let Some(skew) = version.and_then(|server| skew(env!("CARGO_PKG_VERSION"), &server)) {
        print_note(&skew);
    }
    // This program's version is printed whether or not the server answers.
    server.transpose().map(drop)
}

async fn ask(session: &Session) -> Result<v1::WhoAmIResponse, Failure> {
    let client = session.connect().await?;
    let answer = client.access().who_am_i(v1::WhoAmIRequest {}).await?;
    Ok(answer.into_inner())
}
