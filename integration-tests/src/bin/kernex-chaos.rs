//! The `kernex-chaos` program.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    kernex_integration_tests::chaos::command::main().await
}
