//! `context delete`

use super::take;
use crate::{
    args::Consent, commands::confirm, context::ConfigFile, error::Failure, output::print_note,
};

/// Forgets a context and its token, after a question.
pub(super) async fn run(file: &ConfigFile, name: &str, consent: Consent) -> Result<(), Failure> {
    confirm(
        consent,
        &format!("Forget the context {name} and its token?"),
    )
    .await?;
    file.change(|all| {
        take(all, name)?;
        if all.current.as_deref() == Some(name) {
            all.current = None;
            print_note("No context is the current one any more; choose with `context use NAME`.");
        }
        Ok(())
    })
}
