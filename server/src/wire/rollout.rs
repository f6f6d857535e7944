//! Deployments: where they stand and how they ended; what became of their targets when they were
//! halted or rolled back; how many targets are in which state.

use kernex_proto::v1;

use super::same_words;
use crate::domain::{
    halt::HaltStanding,
    rollback::RollbackVerdict,
    rollout::{Counts, DeploymentResult, DeploymentState, OnFailure},
    waiting::WaitReason,
};

same_words!(DeploymentState, v1::DeploymentState:
    Scheduled, Active, Paused, AwaitingApproval, Stopping, Finished);
same_words!(DeploymentResult, v1::DeploymentResult: Succeeded, Failed, Cancelled, Superseded);
same_words!(OnFailure, v1::OnFailure: Pause, Rollback);
same_words!(HaltStanding, v1::HaltStanding:
    NotAnswered, Offline, NeverBegun, Stopped, GoingBack, Ended);
same_words!(RollbackVerdict, v1::RollbackVerdict:
    GoBack, AlreadyThere, NeverRan, MovedOn, NoPrevious, Unproven, BundleGone, DeviceGone);

impl From<Counts> for v1::TargetCounts {
    fn from(counts: Counts) -> Self {
        Self {
            total: counts.total(),
            held: counts.held,
            pending: counts.pending,
            in_progress: counts.in_progress,
            succeeded: counts.succeeded,
            failed: counts.failed + counts.penalised,
            cancelled: counts.cancelled,
            expired: counts.expired,
            superseded: counts.superseded,
        }
    }
}
same_words!(
    WaitReason,
    v1::WaitReason: Start, Phase, Approval, Paused, Room, Budget, Window, Conflict, Device, Disk,
    Deployment, Answer
);
