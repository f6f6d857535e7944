//! `context list`

use crate::{
    args::OutputArg,
    context::ConfigFile,
    error::Failure,
    output::{Printer, access::ContextView},
};

/// Prints the contexts, without their tokens.
pub(super) fn run(file: &ConfigFile, output: OutputArg) -> Result<(), Failure> {
    let all = file.read()?;
    let views: Vec<ContextView> = all
        .contexts
        .into_iter()
        .map(|(name, context)| ContextView {
            current: all.current.as_ref() == Some(&name),
            server: context.server,
            name,
        })
        .collect();
    Printer::new(output.output).list(&views)
}
