//! `event watch`: what happens in the fleet, as it happens.

use jiff::Timestamp;
use kernex_proto::{
    error::Reason,
    event_kinds::{exists, is_of},
    v1,
};
use tonic::Status;

use super::{Session, deployment::resolve::resolve, reconnect::ReconnectPolicy};
use crate::{
    args::event::{EventCommand, kind_lines},
    client::Client,
    error::{Exit, Failure, reason},
    output::{Printer, event::EventView, print_note, printable, reader},
};

pub(crate) async fn run(session: &Session, command: EventCommand) -> Result<(), Failure> {
    match command {
        EventCommand::Watch(args) => {
            let client = session.connect().await?;
            let mut deployments = Vec::with_capacity(args.deployments.len());
            for deployment in &args.deployments {
                deployments.push(resolve(&client, deployment).await?);
            }
            let mut watch = Watch {
                client,
                after: args.after,
                printer: Printer::new(args.output.output),
                wanted: Wanted {
                    kinds: args.kinds,
                    devices: args.devices,
                    deployments,
                    since: args.since,
                },
            };
            watch.run().await
        }
    }
}

struct Watch {
    client: Client,
    /// The last event seen; with none the watch begins with the next one, or at a moment.
    after: Option<u64>,
    wanted: Wanted,
    printer: Printer,
}

/// Which events are printed. An empty field lets all through.
#[derive(Debug, Clone, Default)]
struct Wanted {
    kinds: Vec<String>,
    /// Names or ids.
    devices: Vec<String>,
    /// Ids.
    deployments: Vec<String>,
    since: Option<Timestamp>,
}

enum StreamEnd {
    /// The output is closed.
    Unread,
    Stream,
}

impl Watch {
    async fn run(&mut self) -> Result<(), Failure> {
        let mut reconnect = ReconnectPolicy::new();
        loop {
            let followed = tokio::select! {
                followed = self.follow(&mut reconnect) => followed?,
                () = reader::gone() => return Ok(()),
            };
            let end = match followed {
                Ok(StreamEnd::Unread) => return Ok(()),
                Ok(StreamEnd::Stream) => None,
                Err(status) => Some(status),
            };
            if let Some(failure) = end.as_ref().and_then(|status| self.wanted.unknown(status)) {
                return Err(failure);
            }
            reconnect.wait(end, print_note).await?;
        }
    }

    async fn follow(
        &mut self,
        reconnect: &mut ReconnectPolicy,
    ) -> Result<Result<StreamEnd, Status>, Failure> {
        let request = self.wanted.request(self.after);
        let mut events = match self.client.events().watch_events(request).await {
            Ok(events) => events.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            let next = reconnect.next(&self.client, &mut events, print_note);
            let message = match next.await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(Ok(StreamEnd::Stream)),
                Err(status) => return Ok(Err(status)),
            };
            self.after = self.after.max(Some(message.cursor));
            let Some(event) = message.event else {
                continue;
            };
            self.after = self.after.max(Some(event.cursor));
            if self.wanted.has(&event) && !self.printer.line(&EventView::from(event))? {
                return Ok(Ok(StreamEnd::Unread));
            }
        }
    }
}

impl Wanted {
    fn request(&self, after: Option<u64>) -> v1::WatchEventsRequest {
        // Later streams go on after what was seen.
        let since = self.since.filter(|_| after.is_none());
        v1::WatchEventsRequest {
            after: after.unwrap_or(0),
            from_now: after.is_none() && since.is_none(),
            kinds: self.kinds.clone(),
            devices: self.devices.clone(),
            deployment_ids: self.deployments.clone(),
            since: since.map(|since| prost_types::Timestamp {
                seconds: since.as_second(),
                nanos: since.subsec_nanosecond(),
            }),
        }
    }

    /// Whether it is printed. An older server sends also what is not wanted.
    fn has(&self, event: &v1::Event) -> bool {
        let is_late = |since: Timestamp| {
            let at = event.at.unwrap_or_default();
            (at.seconds, at.nanos) >= (since.as_second(), since.subsec_nanosecond())
        };
        let is_device = |wanted: &String| {
            event.device_name == *wanted || event.device_id.eq_ignore_ascii_case(wanted)
        };
        (self.kinds.is_empty() || self.kinds.iter().any(|kind| is_of(&event.kind, kind)))
            && (self.devices.is_empty() || self.devices.iter().any(is_device))
            && (self.deployments.is_empty() || self.deployments.contains(&event.deployment_id))
            && self.since.is_none_or(is_late)
    }

    /// The failure of a watch that was refused for a kind that does not exist.
    fn unknown(&self, status: &Status) -> Option<Failure> {
        if reason(status) != Some(Reason::InvalidArgument) {
            return None;
        }
        let unknown = self.kinds.iter().find(|kind| !exists(kind))?;
        Some(Failure::new(
            Exit::Usage,
            format!(
                "there are no events `{}`; there are\n{}",
                printable(unknown),
                kind_lines("    ")
            ),
            "Name one, as in `--kind device.drifted`, or a subject: `--kind device`.",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_watch_goes_on_after_what_it_saw_and_not_at_its_moment_again() {
        let wanted = Wanted {
            since: Some(at(100)),
            ..Wanted::default()
        };
        let first = wanted.request(None);
        assert_eq!(
            (first.after, first.from_now, first.since.unwrap().seconds),
            (0, false, 100)
        );
        let second = wanted.request(Some(7));
        assert_eq!(
            (second.after, second.from_now, second.since),
            (7, false, None)
        );
        assert!(Wanted::default().request(None).from_now);
    }

    #[test]
    fn what_an_older_server_sends_is_filtered_here() {
        let event = v1::Event {
            at: Some(prost_types::Timestamp {
                seconds: 100,
                nanos: 0,
            }),
            kind: "attempt.failed".into(),
            device_id: "d1".into(),
            device_name: "edge-1".into(),
            deployment_id: "o1".into(),
            ..v1::Event::default()
        };
        let wants = |kind: &str, device: &str, deployment: &str, since: i64| {
            let some = |text: &str| match text {
                "" => Vec::new(),
                text => vec![text.to_owned()],
            };
            let wanted = Wanted {
                kinds: some(kind),
                devices: some(device),
                deployments: some(deployment),
                since: Some(at(since)),
            };
            wanted.has(&event)
        };
        assert!(wants("", "", "", 100));
        assert!(wants("attempt", "edge-1", "o1", 50));
        assert!(wants("attempt.failed", "d1", "", 50));
        assert!(!wants("device", "", "", 50));
        assert!(!wants("", "edge-2", "", 50));
        assert!(!wants("", "", "o2", 50));
        assert!(!wants("", "", "", 101));
    }
}
