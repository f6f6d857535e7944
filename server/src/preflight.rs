//! Asks devices what a deploy would meet, before any of them is touched.
//!
//! Nothing is stored. A question lives as long as the call that asks it. A device that does not
//! answer in time is shown as one that did not.

use std::{collections::HashMap, time::Duration};

use futures::future::join_all;
use kernex_proto::{
    ids::DeviceId,
    v1::{self, PlanVerdict, command::Action, device_session_response::Message},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    crash::Act,
    delivery::registry::Registry,
    store::{PlannedDevice, Planning},
};

/// Time that a device has to answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Questions whose answers have not come.
#[derive(Debug, Default)]
pub struct PlanQuestions {
    waiting: Mutex<HashMap<(DeviceId, String), oneshot::Sender<v1::Planned>>>,
}

/// A question to a device. It is forgotten when this is dropped.
#[derive(Debug)]
pub struct Question<'a> {
    plans: &'a PlanQuestions,
    device: DeviceId,
    id: String,
    answer: oneshot::Receiver<v1::Planned>,
}

impl PlanQuestions {
    pub fn ask(&self, device: DeviceId) -> Question<'_> {
        let (sender, answer) = oneshot::channel();
        let id = Uuid::new_v4().to_string();
        self.waiting.lock().insert((device, id.clone()), sender);
        Question {
            plans: self,
            device,
            id,
            answer,
        }
    }

    /// Hands a device's answer to the call that waits. Without one the answer is dropped.
    pub fn answer(&self, device: DeviceId, answer: v1::Planned) {
        let asked = self
            .waiting
            .lock()
            .remove(&(device, answer.plan_id.clone()));
        if let Some(asked) = asked {
            let _ = asked.send(answer);
        }
    }
}

impl Question<'_> {
    /// The id that the answer has to repeat.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the answer; `None` when it does not come in time.
    pub async fn wait(mut self) -> Option<v1::Planned> {
        tokio::time::timeout(ANSWER_LIMIT, &mut self.answer)
            .await
            .ok()?
            .ok()
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let key = (self.device, std::mem::take(&mut self.id));
        self.plans.waiting.lock().remove(&key);
    }
}

/// Asks all devices of an order that are here, at the same time. Returns what each would meet, by
/// name.
pub async fn ask(
    planning: Planning,
    plans: &PlanQuestions,
    registry: &Registry,
    now: impl Fn() -> Timestamp,
) -> Vec<v1::DevicePlan> {
    let now = &now;
    let asked = planning.devices.iter().map(|device| {
        let session = registry.get(device.id);
        let session = session.filter(|session| !session.is_ailing());
        let question = session.map(|session| {
            let question = plans.ask(device.id);
            let command = v1::Command {
                epoch: session.epoch,
                action: Some(Action::Plan(v1::Plan {
                    deploy: Some(planning.deploy.clone()),
                    plan_id: question.id().to_owned(),
                    manifest_json: planning.manifest_json.clone(),
                    unpacked_bytes: planning.unpacked_bytes,
                    entries: planning.entries,
                })),
                ..v1::Command::default()
            };
            // A device that cannot take the question does not answer it either.
            Act::PushPlan.before();
            session.send(Message::Command(command));
            Act::PushPlan.after();
            question
        });
        async move {
            let here = question.is_some();
            let answer = match question {
                Some(question) => question.wait().await,
                None => None,
            };
            judge(device, here, answer, now())
        }
    });
    let mut devices = join_all(asked).await;
    devices.sort_by(|a, b| a.device_name.cmp(&b.device_name));
    devices
}

/// What a deploy would meet on one device. Pure.
fn judge(
    device: &PlannedDevice,
    here: bool,
    answer: Option<v1::Planned>,
    now: Timestamp,
) -> v1::DevicePlan {
    let verdict = match &answer {
        _ if device.conflicted => PlanVerdict::Conflicted,
        _ if device.penalty.is_some() => PlanVerdict::Penalised,
        None if device.disk_fault.is_some() => PlanVerdict::WouldFail,
        None if here => PlanVerdict::NoAnswer,
        None => PlanVerdict::Offline,
        Some(answer) if !answer.obstacles.is_empty() => PlanVerdict::WouldFail,
        Some(answer) if answer.already_active => PlanVerdict::AlreadyActive,
        Some(_) => PlanVerdict::WouldRun,
    };
    let device_time = answer.as_ref().and_then(|answer| answer.device_time);
    let skew = device_time.map_or(0, |time| {
        let millis = time.seconds.saturating_mul(1000) + i64::from(time.nanos) / 1_000_000;
        millis.saturating_sub(now.0 / 1000)
    });
    let note = match (device.penalty, device.disk_fault) {
        (Some(penalty), _) => penalty.to_string(),
        (None, Some(fault)) => format!("state_dir: {fault}"),
        (None, None) => String::new(),
    };
    v1::DevicePlan {
        device_id: device.id.to_string(),
        device_name: device.name.clone(),
        verdict: verdict.into(),
        answer,
        clock_skew_ms: skew,
        note,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{attempt::FailureReason, device::DiskFault, penalty::Penalty};

    fn device() -> DeviceId {
        DeviceId(Uuid::now_v7())
    }

    fn answer_to(question: &Question<'_>) -> v1::Planned {
        v1::Planned {
            plan_id: question.id().to_owned(),
            ..v1::Planned::default()
        }
    }

    #[tokio::test]
    async fn an_answer_reaches_its_question_and_no_other_device_can_give_it() {
        let plans = PlanQuestions::default();
        let (asked, other) = (device(), device());
        let question = plans.ask(asked);
        let mut forged = answer_to(&question);
        forged.already_active = true;
        plans.answer(other, forged);
        let answer = answer_to(&question);
        plans.answer(asked, answer.clone());
        assert_eq!(question.wait().await, Some(answer));
    }

    #[test]
    fn each_device_gets_one_verdict() {
        let obstacle = || v1::Planned {
            obstacles: vec![v1::Obstacle::default()],
            already_active: true,
            ..v1::Planned::default()
        };
        let active = || v1::Planned {
            already_active: true,
            ..v1::Planned::default()
        };
        let fine = || Some(v1::Planned::default());
        let table = [
            (false, true, fine(), PlanVerdict::WouldRun),
            (false, true, Some(active()), PlanVerdict::AlreadyActive),
            (false, true, Some(obstacle()), PlanVerdict::WouldFail),
            (false, true, None, PlanVerdict::NoAnswer),
            (false, false, None, PlanVerdict::Offline),
            (true, true, fine(), PlanVerdict::Conflicted),
        ];
        for (conflicted, here, answer, wanted) in table {
            let device = PlannedDevice {
                id: device(),
                name: "edge-1".into(),
                conflicted,
                penalty: None,
                disk_fault: None,
            };
            let plan = judge(&device, here, answer, Timestamp(0));
            assert_eq!(plan.verdict(), wanted);
        }
    }

    #[test]
    fn a_device_whose_disk_fails_is_told_apart_with_the_fault() {
        let device = PlannedDevice {
            id: device(),
            name: "edge-1".into(),
            conflicted: false,
            penalty: None,
            disk_fault: Some(DiskFault::NoSpace),
        };
        let plan = judge(&device, false, None, Timestamp(0));
        assert_eq!(plan.verdict(), PlanVerdict::WouldFail);
        assert_eq!(plan.note, "state_dir: no space");
    }

    #[test]
    fn a_device_that_failed_too_often_is_told_apart_with_the_reason() {
        let device = PlannedDevice {
            id: device(),
            name: "edge-1".into(),
            conflicted: false,
            penalty: Some(Penalty {
                failures: 3,
                last: FailureReason::HealthCheck,
            }),
            disk_fault: None,
        };
        let plan = judge(&device, true, Some(v1::Planned::default()), Timestamp(0));
        assert_eq!(plan.verdict(), PlanVerdict::Penalised);
        assert!(
            plan.note.contains("3 times") && plan.note.contains("health_check"),
            "{}",
            plan.note
        );
    }

    #[test]
    fn a_clock_that_is_ahead_shows() {
        let device = PlannedDevice {
            id: device(),
            name: "edge-1".into(),
            conflicted: false,
            penalty: None,
            disk_fault: None,
        };
        let answer = v1::Planned {
            device_time: Some(prost_types::Timestamp {
                seconds: 100,
                nanos: 500_000_000,
            }),
            ..v1::Planned::default()
        };
        let plan = judge(&device, true, Some(answer), Timestamp(98_000_000));
        assert_eq!(plan.clock_skew_ms, 2500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_an_answer_ends_and_is_forgotten() {
        let plans = PlanQuestions::default();
        assert_eq!(plans.ask(device()).wait().await, None);
        assert!(plans.waiting.lock().is_empty());
    }
}
