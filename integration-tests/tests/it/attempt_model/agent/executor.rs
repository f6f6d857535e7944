//! The executor of the model's agent: one attempt at a time, one small step at a time, so that a
//! crash can come between any two.

use kernex_agent::journal::{Restarting, Returning, Stage, Started};
use kernex_proto::{
    ids::AttemptId,
    v1::{self, AttemptState, FailureReason, Step},
};

use super::{Agent, ScriptEnd, ScriptRun, outcome};

/// Where the executor is with its one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExecutorState {
    /// About to journal the start of a step.
    Before(Step),
    /// Journalled, not run.
    Begun(Step),
    /// Run, its end not journalled yet.
    Ran(Step, ScriptEnd),
    /// Waiting for the restart that its script asked for.
    Restart,
    /// About to go on with going back after such a restart.
    Returned,
}

impl Agent {
    /// One small step of the executor; the scripts it runs go to the witness.
    pub(in crate::attempt_model) fn work(
        &mut self,
        script_end: ScriptEnd,
        witness: &mut impl FnMut(ScriptRun),
    ) {
        if !self.confirmed {
            return;
        }
        match self.running {
            None => self.running = self.next_ready(),
            Some((id, at)) => {
                self.running = self.go_on(id, at, script_end, witness).map(|at| (id, at))
            }
        }
    }

    /// Whether it waits for a restart and nothing else.
    pub(in crate::attempt_model) fn awaits_restart(&self) -> bool {
        matches!(self.running, Some((_, ExecutorState::Restart)))
    }

    fn next_ready(&self) -> Option<(AttemptId, ExecutorState)> {
        let ready = self.disk.live.iter().filter_map(|(id, record)| {
            let (rank, at) = match record.stage()? {
                Stage::GoingBack(_) => (0, ExecutorState::Before(Step::Rollback)),
                Stage::Returning(..) => (0, ExecutorState::Returned),
                Stage::Restarted(_) => (0, ExecutorState::Before(Step::Activate)),
                Stage::Fresh => (1, ExecutorState::Before(Step::PreHook)),
                Stage::Deferred | Stage::CutOff => return None,
            };
            Some(((rank, record.accepted_seq), (*id, at)))
        });
        ready.min_by_key(|(rank, _)| *rank).map(|(_, ready)| ready)
    }

    fn go_on(
        &mut self,
        id: AttemptId,
        at: ExecutorState,
        script_end: ScriptEnd,
        witness: &mut impl FnMut(ScriptRun),
    ) -> Option<ExecutorState> {
        match at {
            ExecutorState::Before(step) => {
                let record = self.disk.live.get_mut(&id)?;
                let begun = record.started.clone().map(|started| started.step());
                let may = record.start(Started {
                    step: step.into(),
                    ..Started::default()
                });
                if may {
                    if step == Step::Rollback {
                        self.told.push(going_back(id, record.stop_requested));
                    }
                    return Some(ExecutorState::Begun(step));
                }
                let cancelled = outcome(AttemptState::Cancelled, FailureReason::Unspecified);
                if step == Step::Rollback {
                    let lost = outcome(AttemptState::Failed, FailureReason::RollbackFailed);
                    self.disk.finish(id, lost);
                    return None;
                }
                match begun {
                    None | Some(Step::PreHook) => {
                        self.disk.finish(id, cancelled);
                        None
                    }
                    Some(_) => self.go_back(id, cancelled),
                }
            }
            ExecutorState::Begun(step) => {
                let run = self.disk.live.get(&id)?.run();
                if step != Step::Activate {
                    witness((id, step, run));
                }
                Some(ExecutorState::Ran(step, script_end))
            }
            ExecutorState::Ran(step, script_end) => self.after(id, step, script_end),
            ExecutorState::Restart => Some(ExecutorState::Restart),
            ExecutorState::Returned => {
                let record = self.disk.live.get_mut(&id)?;
                let may = record.start(Started {
                    step: Step::Rollback.into(),
                    ..Started::default()
                });
                // The rest of the rollback may fail like any script.
                self.after(
                    id,
                    Step::Rollback,
                    if may { script_end } else { ScriptEnd::Failure },
                )
            }
        }
    }

    fn after(&mut self, id: AttemptId, step: Step, script_end: ScriptEnd) -> Option<ExecutorState> {
        let failed = |reason| outcome(AttemptState::Failed, reason);
        match (step, script_end) {
            (Step::PreHook, ScriptEnd::Success) => Some(ExecutorState::Before(Step::Script)),
            (Step::PreHook, ScriptEnd::Failure) => {
                self.disk.finish(id, failed(FailureReason::Refused));
                None
            }
            (Step::PreHook, ScriptEnd::Exit75) => {
                let seq = self.disk.next_seq();
                let record = self.disk.live.get_mut(&id)?;
                let deferred = v1::Deferred {
                    run: record.run(),
                    retry_after_ms: 1000,
                    message: String::new(),
                };
                if !record.defer(deferred, String::new(), seq) {
                    let stopped = outcome(AttemptState::Cancelled, FailureReason::Unspecified);
                    self.disk.finish(id, stopped);
                }
                None
            }
            (Step::Script, ScriptEnd::Success) => Some(ExecutorState::Before(Step::Activate)),
            (Step::Script, ScriptEnd::Exit75) => {
                let record = self.disk.live.get_mut(&id)?;
                record.restarting = Some(Restarting::default());
                Some(ExecutorState::Restart)
            }
            (Step::Activate, _) => Some(ExecutorState::Before(Step::PostHook)),
            (Step::PostHook, ScriptEnd::Success) => {
                self.disk.finish(
                    id,
                    outcome(AttemptState::Succeeded, FailureReason::Unspecified),
                );
                None
            }
            (Step::Rollback, ScriptEnd::Exit75) => {
                let record = self.disk.live.get_mut(&id)?;
                record.returning = Some(Returning::default());
                Some(ExecutorState::Restart)
            }
            (Step::Rollback, script_end) => {
                let failing = self.disk.live.get(&id)?.failing.clone();
                let lost = failed(FailureReason::RollbackFailed);
                let good = failing.filter(|_| script_end == ScriptEnd::Success);
                self.disk.finish(id, good.unwrap_or(lost));
                None
            }
            _ => self.go_back(id, failed(FailureReason::ScriptFailed)),
        }
    }

    fn go_back(&mut self, id: AttemptId, failing: v1::Outcome) -> Option<ExecutorState> {
        self.disk.live.get_mut(&id)?.fail(failing.clone());
        if self.has_rollback_script {
            return Some(ExecutorState::Before(Step::Rollback));
        }
        self.disk.finish(id, failing);
        None
    }
}

fn going_back(id: AttemptId, stopped: bool) -> v1::Report {
    let progress = v1::Progress {
        step: Step::Rollback.into(),
        stopped,
        ..v1::Progress::default()
    };
    v1::Report {
        attempt: Some(id.into()),
        event: Some(v1::report::Event::Progress(progress)),
        ..v1::Report::default()
    }
}
