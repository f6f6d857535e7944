//! The two pipes of a script: its standard output and its standard error.

use std::io::{self, ErrorKind, PipeReader};

use kernex_proto::v1::OutputStream;
use tokio::net::unix::pipe;

use super::Output;

/// The reading ends. Each becomes `None` once it was read to its end.
pub(super) struct Pipes {
    out: Option<pipe::Receiver>,
    err: Option<pipe::Receiver>,
    /// The pipe that was read last. The other one is asked first, so that neither starves.
    last: OutputStream,
}

impl Pipes {
    pub(super) fn new(out: PipeReader, err: PipeReader) -> io::Result<Self> {
        Ok(Self {
            out: Some(pipe::Receiver::from_owned_fd(out.into())?),
            err: Some(pipe::Receiver::from_owned_fd(err.into())?),
            last: OutputStream::Stderr,
        })
    }

    fn of(&mut self, stream: OutputStream) -> &mut Option<pipe::Receiver> {
        match stream {
            OutputStream::Stderr => &mut self.err,
            OutputStream::Stdout | OutputStream::Unspecified => &mut self.out,
        }
    }

    /// Reads once from a pipe that has something. The output of the two pipes is in the order in
    /// which they are read. After the end of both this never resolves, so that a `select!` goes on
    /// with its other branches.
    pub(super) async fn read_some(&mut self, buffer: &mut [u8]) -> (OutputStream, usize) {
        loop {
            let stream = if self.last == OutputStream::Stdout {
                tokio::select! {
                    biased;
                    () = readable(self.err.as_ref()) => OutputStream::Stderr,
                    () = readable(self.out.as_ref()) => OutputStream::Stdout,
                }
            } else {
                tokio::select! {
                    biased;
                    () = readable(self.out.as_ref()) => OutputStream::Stdout,
                    () = readable(self.err.as_ref()) => OutputStream::Stderr,
                }
            };
            self.last = stream;
            let pipe = self.of(stream);
            let read = pipe.as_ref().map(|pipe| pipe.try_read(buffer));
            match read {
                Some(Ok(read @ 1..)) => return (stream, read),
                Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => {}
                Some(Ok(_) | Err(_)) | None => *pipe = None,
            }
        }
    }

    /// Reads what is in the pipes now. Returns the pipes whose other end a process still holds.
    pub(super) fn take_open(
        &mut self,
        output: &mut Output,
        buffer: &mut [u8],
    ) -> Vec<(OutputStream, pipe::Receiver)> {
        let mut open = Vec::new();
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let Some(pipe) = self.of(stream).take() else {
                continue;
            };
            if is_open(&pipe, |bytes| output.push(stream, bytes), buffer) {
                open.push((stream, pipe));
            }
        }
        open
    }
}

/// Reads what is in a pipe now. Returns whether a process still holds its other end.
fn is_open(pipe: &pipe::Receiver, mut push: impl FnMut(&[u8]), buffer: &mut [u8]) -> bool {
    // A pipe holds 64 KiB; more than that comes from a survivor.
    for _ in 0..8 {
        match pipe.try_read(buffer) {
            Ok(0) => return false,
            Ok(read) => push(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
    }
    true
}

/// Waits until there is something to read; for ever where the end was read.
async fn readable(pipe: Option<&pipe::Receiver>) {
    match pipe {
        // Reading returns the error.
        Some(pipe) => {
            let _ = pipe.readable().await;
        }
        None => std::future::pending().await,
    }
}
