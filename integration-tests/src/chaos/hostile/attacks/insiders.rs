//! Attacks by known callers: a viewer, an operator, a device.

use std::time::Duration;

use bytes::Bytes;
use kernex_proto::{
    ids::TargetId,
    v1::{
        Accepted, ActiveRelease, AttemptRef, Heartbeat, Progress, Report, Step, UploadBegin,
        UploadBundleRequest, VitalSigns, WatchDevicesRequest, WatchEventsRequest,
        device_session_request as up, report::Event, upload_bundle_request,
    },
};
use rand::Rng as _;
use tokio::time::{sleep, timeout};

use super::super::target::Target;
use crate::{
    fleet::{Sender, WireError},
    raw_agent::{RawSession, failed},
};

const DEVICES: &str = "/kernex.v1.DeviceService/WatchDevices";
const EVENTS: &str = "/kernex.v1.EventService/WatchEvents";
const UPLOAD: &str = "/kernex.v1.BundleService/UploadBundle";

/// How long an attacker holds its connection, unless the server ends it.
const HELD: Duration = Duration::from_secs(60);

/// The window of a client that reads answers.
const WINDOW: u32 = 65_535;

/// Between two messages of a device: a thousand a second.
const MESSAGE: Duration = Duration::from_millis(1);

/// A viewer opens every watch and reads none of them.
pub(super) async fn stalled_watches(target: &Target, _: usize) {
    let bearer = [("authorization", format!("Bearer {}", target.viewer))];
    let Ok(mut wire) = target.wire(0).await else {
        return;
    };
    let open = wire.calls.clone();
    let watching = async {
        let mut held = Vec::new();
        for _ in 0..64 {
            let (mut sender, answer) = open.open(DEVICES, &bearer).await?;
            sender.send(&WatchDevicesRequest::default())?;
            sender.finish()?;
            held.push(answer);
            let (mut sender, answer) = open.open(EVENTS, &bearer).await?;
            sender.send(&WatchEventsRequest::default())?;
            sender.finish()?;
            held.push(answer);
            target.did();
        }
        sleep(HELD).await;
        Ok::<_, WireError>(())
    };
    let _ = wire.during(watching).await;
}

fn begin() -> UploadBundleRequest {
    UploadBundleRequest {
        message: Some(upload_bundle_request::Message::Begin(UploadBegin::default())),
    }
}

pub(super) async fn idle_uploads(target: &Target, _: usize) {
    let bearer = [("authorization", format!("Bearer {}", target.operator))];
    let Ok(mut wire) = target.wire(WINDOW).await else {
        return;
    };
    let open = wire.calls.clone();
    let uploading = async {
        let mut held = Vec::new();
        for _ in 0..70 {
            let (mut sender, answer) = open.open(UPLOAD, &bearer).await?;
            sender.send(&begin())?;
            held.push((sender, answer));
            target.did();
        }
        sleep(HELD).await;
        Ok::<_, WireError>(())
    };
    let _ = wire.during(uploading).await;
}

/// An endless body of random bytes.
pub(super) async fn endless_upload(target: &Target, _: usize) {
    let bearer = [("authorization", format!("Bearer {}", target.operator))];
    let Ok(mut wire) = target.wire(WINDOW).await else {
        return;
    };
    let open = wire.calls.clone();
    let uploading = async {
        let (mut sender, mut answer) = open.open(UPLOAD, &bearer).await?;
        sender.send(&begin())?;
        tokio::select! {
            sent = noise(target, &mut sender) => sent,
            answer = answer.skip() => answer.map(|_| ()),
        }
    };
    let _ = wire.during(uploading).await;
}

async fn noise(target: &Target, sender: &mut Sender) -> Result<(), WireError> {
    let mut piece = vec![0; 64 << 10];
    loop {
        rand::rng().fill_bytes(&mut piece);
        let piece = Bytes::copy_from_slice(&piece);
        let request = UploadBundleRequest {
            message: Some(upload_bundle_request::Message::Chunk(piece)),
        };
        let mut bytes = vec![0];
        let body = prost::Message::encode_to_vec(&request);
        bytes.extend(u32::try_from(body.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(body);
        sender.bytes(bytes.into()).await?;
        target.did();
        sleep(MESSAGE).await;
    }
}

/// A session of the rogue device. Nothing waits for its answers.
async fn rogue(target: &Target) -> Option<RawSession> {
    let mut rogue = target.rogue();
    let session = timeout(Duration::from_secs(10), rogue.try_connect(&target.server)).await;
    let session = session.ok()?.ok()?;
    target.keep_rogue(rogue);
    Some(session)
}

/// Says what `next` makes, at the pace of [`MESSAGE`], until the server ends the session.
async fn says(target: &Target, mut next: impl FnMut(u64) -> up::Message) {
    let Some(mut session) = rogue(target).await else {
        return;
    };
    let saying = session.sender();
    let talking = async {
        for number in 1.. {
            if !saying.say(next(number)).await {
                return;
            }
            target.did();
            sleep(MESSAGE).await;
        }
    };
    tokio::select! {
        () = talking => {}
        _ = session.end() => {}
    }
}

pub(super) async fn made_up_releases(target: &Target, _: usize) {
    says(target, |number| {
        let release = |of: u64| ActiveRelease {
            name: format!("made-up-{of}"),
            version: format!("{number}"),
            digest: hex::encode([of as u8; 32]),
            ..ActiveRelease::default()
        };
        up::Message::Heartbeat(Heartbeat {
            seq: number,
            vital_signs: Some(VitalSigns::default()),
            releases: (0..4000).map(release).collect(),
            ..Heartbeat::default()
        })
    })
    .await;
}

fn somewhere() -> Option<AttemptRef> {
    Some(AttemptRef {
        target_id: TargetId::generate().to_string(),
        attempt: 1,
    })
}

fn report(seq: u64, event: Event) -> up::Message {
    up::Message::Report(Report {
        attempt: somewhere(),
        seq,
        event: Some(event),
        ..Report::default()
    })
}

pub(super) async fn made_up_progress(target: &Target, _: usize) {
    says(target, |number| {
        let progress = Progress {
            step: Step::Script.into(),
            bytes_done: number,
            ..Progress::default()
        };
        report(0, Event::Progress(progress))
    })
    .await;
}

pub(super) async fn made_up_outcomes(target: &Target, _: usize) {
    says(target, |number| {
        if number % 2 == 0 {
            return report(number, Event::Accepted(Accepted {}));
        }
        let mut outcome = failed(kernex_proto::v1::FailureReason::ScriptFailed, "made up");
        outcome.output_tail = "x".repeat(64 << 10);
        report(number, Event::Outcome(outcome))
    })
    .await;
}

pub(super) async fn sessions_over_and_over(target: &Target, _: usize) {
    if rogue(target).await.is_some() {
        target.did();
    }
}

/// The device says that it has had sessions that nobody opened.
pub(super) async fn made_up_epochs(target: &Target, _: usize) {
    let mut liar = target.liar.clone();
    liar.last_epoch = rand::random::<u64>() >> 1;
    let opened = timeout(Duration::from_secs(10), liar.try_connect(&target.server));
    // Refused or taken for a copy of itself: the lie was told.
    if opened.await.is_ok() {
        target.did();
    }
}

/// A message as long as a device may send, of fields that nobody knows.
pub(super) async fn a_million_fields(target: &Target, _: usize) {
    let Some(mut session) = rogue(target).await else {
        return;
    };
    // Field 15, a number, 1.
    session.send_bytes([0x78, 0x01].repeat(1_000_000)).await;
    target.did();
    let _ = timeout(HELD, session.end()).await;
}
