//! The `kernex-agent` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Agents live on small devices: one thread, and two more for what blocks.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(kernex_agent::main());
            runtime.shutdown_timeout(std::time::Duration::from_millis(500));
            code
        }
        Err(error) => {
            eprintln!("kernex-agent: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}
