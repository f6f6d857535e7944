//! A script that asks for a restart of the machine or of the agent: the attempt waits for it, and
//! continues after it.

use std::time::Duration;

use kernex_proto::v1::{FailureReason, Step};

use super::{Attempt, Prepared, millis};
use crate::{
    clock,
    executor::{RunResult, outcome::StepError},
    journal::{Deadline, Restarting},
    sandbox::Output,
};

impl Attempt<'_> {
    /// Continues after the restart that the script asked for.
    pub(super) async fn resume_after_restart(&mut self, restarting: Restarting) -> RunResult {
        tracing::info!("going on after the restart");
        self.output = Output::of_earlier(&restarting.output, &restarting.output_marks);
        self.exit_code = restarting.exit_code;
        self.has_begun = true;
        if let Some(deadline) = &restarting.deadline {
            self.deadline = self.deadline.min(on_this_boot(deadline));
        }
        let prepared = match self.unpacked_release() {
            Ok(prepared) => prepared,
            Err(why) => {
                let stopped = StepError::failed(FailureReason::Internal, why);
                return self.resume_going_back(stopped.into_outcome()).await;
            }
        };
        let result = self
            .continue_after_restart(&prepared, restarting.after_switch)
            .await;
        self.finish_run(prepared, result).await
    }

    /// Runs the steps after a restart, if the restart came in time.
    async fn continue_after_restart(
        &mut self,
        prepared: &Prepared,
        after_switch: bool,
    ) -> Result<(), StepError> {
        if self.record.overdue || clock::since_boot() >= self.deadline {
            return Err(no_restart(prepared.restarting_script()));
        }
        self.activate(prepared).await?;
        if after_switch {
            return self.health(prepared).await;
        }
        self.run_post_switch_steps(prepared).await
    }

    /// The script has arranged for a restart. Notes in the journal how to continue, then waits for
    /// the restart.
    pub(super) async fn await_restart(
        &mut self,
        prepared: &Prepared,
        after_switch: bool,
    ) -> Result<(), StepError> {
        self.note_switch(prepared).await?;
        let (output, output_marks) = self.output.marked();
        let restarting = Restarting {
            exit_code: self.exit_code,
            output,
            output_marks,
            deadline: Some(self.durable_deadline()),
            after_switch,
        };
        let id = self.id;
        self.executor
            .journal
            .call(move |journal| journal.note_restart(id, restarting))
            .await
            .map_err(|err| StepError::internal("cannot write to the journal", &err))?;
        if !after_switch {
            // The step that is shown stays that of the script: it is waited for its restart, and
            // the switch takes a moment only.
            self.note_step(Step::Activate).await?;
            self.switch(prepared).await?;
        }
        tracing::info!("waiting for the restart that the script asked for");
        match self.unless_ended(std::future::pending::<()>()).await {
            Err(StepError::ShuttingDown) => Err(StepError::Restarting),
            Err(StepError::Failed { .. }) | Ok(()) => Err(no_restart(prepared.restarting_script())),
            Err(stopped) => Err(stopped),
        }
    }

    /// The deadline as the journal keeps it.
    pub(super) fn durable_deadline(&self) -> Deadline {
        Deadline::new(
            clock::boot_id(),
            millis(self.deadline),
            millis(clock::since_boot()),
        )
    }
}

/// The error of a restart that a script asked for and that came too late or never.
pub(super) fn no_restart(script: &str) -> StepError {
    StepError::failed(
        FailureReason::ScriptTimeout,
        format!("the restart that {script} asked for did not come within the execution time"),
    )
}

pub(super) fn on_this_boot(deadline: &Deadline) -> Duration {
    Duration::from_millis(deadline.on(&clock::boot_id()))
}
