//! `event watch`: what happens in the fleet, as it happens.

use kernex_proto::v1;
use tonic::Status;

use super::{Session, reconnect::ReconnectPolicy};
use crate::{
    args::event::EventCommand,
    client::Client,
    error::Failure,
    output::{Printer, event::EventView, print_note, reader},
};

pub(crate) async fn run(session: &Session, command: EventCommand) -> Result<(), Failure> {
    match command {
        EventCommand::Watch {
            after,
            kinds,
            output,
        } => {
            let client = session.connect().await?;
            let mut watch = Watch {
                client,
                after,
                kinds,
                printer: Printer::new(output.output),
            };
            watch.run().await
        }
    }
}

struct Watch {
    client: Client,
    /// The last event seen; with none the watch begins with the next one.
    after: Option<u64>,
    kinds: Vec<String>,
    printer: Printer,
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
            reconnect.wait(end, print_note).await?;
        }
    }

    async fn follow(
        &mut self,
        reconnect: &mut ReconnectPolicy,
    ) -> Result<Result<StreamEnd, Status>, Failure> {
        let request = v1::WatchEventsRequest {
            after: self.after.unwrap_or(0),
            from_now: self.after.is_none(),
            kinds: self.kinds.clone(),
        };
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
            if self.is_wanted(&event.kind) && !self.printer.line(&EventView::from(event))? {
                return Ok(Ok(StreamEnd::Unread));
            }
        }
    }

    fn is_wanted(&self, kind: &str) -> bool {
        let wants = |wanted: &String| {
            kind == wanted
                || kind
                    .strip_prefix(wanted.as_str())
                    .is_some_and(|rest| rest.starts_with('.'))
        };
        self.kinds.is_empty() || self.kinds.iter().any(wants)
    }
}
