//! `deployment halt`: stop now, and see which devices have stopped.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use kernex_proto::v1;
use tonic::Status;

use super::resolve::resolve;
use crate::{
    args::deployment::HaltArgs,
    client::{Client, request_id},
    commands::{Session, confirm},
    error::{Exit, Failure, is_passing},
    output::{
        Printer, counted,
        halted::{HaltedView, summary},
        print_note,
        progress::spinner,
    },
};

/// Pause between two tries to reach a server that went away.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Halts, and waits for the answers.
pub(super) async fn run(session: &Session, args: HaltArgs) -> Result<(), Failure> {
    let id = args.steer.id;
    let client = session.connect().await?;
    let whole_id = resolve(&client, &id).await?;
    confirm(
        args.consent,
        &format!(
            "Halt the deployment {id}? What runs on devices is killed, and devices that are going back stop half way."
        ),
    ).await?;
    let printer = Printer::new(args.steer.output.output);
    let started = Instant::now();
    let mut halt = Halt::default();
    let bar = spinner("no device has answered yet");
    let answers = collect_answers(&client, &whole_id, &mut halt, &bar);
    let waited = tokio::time::timeout(args.timeout, answers).await;
    bar.finish_and_clear();
    if let Ok(Err(failure)) = waited {
        return Err(failure);
    }
    let took = started.elapsed();
    let views: Vec<HaltedView> = halt.devices.into_values().map(HaltedView::from).collect();
    printer.list(&views)?;
    let all = views.len();
    let missing = views.iter().filter(|view| !view.is_acknowledged()).count();
    if missing > 0 {
        return Err(Failure::new(
            Exit::TimedOut,
            format!(
                "no acknowledgement from {missing} of {} within {:?}: {}",
                counted(all as u64, "device"),
                args.timeout,
                summary(&views)
            ),
            format!(
                "They are told again whenever they connect; `kernexctl deployment get {id}` shows which have not answered. Halting again also ends going back."
            ),
        ));
    }
    if printer.for_people() {
        if all > 0 {
            print_note(&format!(
                "Halted within {} ms, acknowledged by {}: {}.",
                took.as_millis(),
                counted(all as u64, "device"),
                summary(&views)
            ));
        }
        if halt.done_before > 0 {
            let done = counted(halt.done_before.into(), "device");
            print_note(&format!("Done before: {done}."));
        }
    }
    Ok(())
}

/// The answers to a halt so far.
#[derive(Debug, Default)]
struct Halt {
    /// Devices by name.
    devices: BTreeMap<String, v1::HaltedDevice>,
    done_before: u32,
}

/// Collects answers until none is missing, over restarts of the server: the same request id
/// continues the same halt.
async fn collect_answers(
    client: &Client,
    id: &str,
    halt: &mut Halt,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let request_id = request_id();
    loop {
        match follow(client, id, &request_id, halt, bar).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(status) if is_passing(&status) => {}
            Err(status) => return Err(status.into()),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn follow(
    client: &Client,
    id: &str,
    request_id: &str,
    halt: &mut Halt,
    bar: &ProgressBar,
) -> Result<bool, Status> {
    let request = v1::HaltDeploymentRequest {
        deployment_id: id.to_owned(),
        request_id: request_id.to_owned(),
    };
    let mut stream = client
        .rollouts()
        .halt_deployment(request)
        .await?
        .into_inner();
    let mut waiting = u32::MAX;
    while let Some(message) = stream.message().await? {
        waiting = message.waiting;
        halt.done_before = message.done_before;
        for device in message.devices {
            halt.devices.insert(device.device_name.clone(), device);
        }
        let missing = counted(waiting.into(), "device");
        bar.set_message(format!("still to answer: {missing}"));
    }
    Ok(waiting == 0)
}
