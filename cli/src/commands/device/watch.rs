//! `device list --watch`: the fleet as it is, then as it changes.

use std::{collections::BTreeMap, io::IsTerminal as _};

use kernex_proto::v1;
use tonic::Status;

use crate::{
    args::{OutputArg, device::DeviceFilterArgs},
    client::Client,
    commands::{Session, reconnect::ReconnectPolicy},
    error::Failure,
    output::{
        Printer,
        device::{DeviceChange, DeviceView, fleet},
        print_note, reader,
    },
};

/// Follows the devices that match a selector, until the output is closed.
pub(super) async fn run(
    session: &Session,
    filter: &DeviceFilterArgs,
    output: OutputArg,
) -> Result<(), Failure> {
    let printer = Printer::new(output.output);
    let mut watch = Watch {
        client: session.connect().await?,
        filter,
        cursor: 0,
        devices: BTreeMap::new(),
        screen: printer.for_people() && std::io::stdout().is_terminal(),
        printer,
    };
    let mut reconnect = ReconnectPolicy::new();
    loop {
        let followed = tokio::select! {
            followed = watch.follow(&mut reconnect) => followed?,
            () = reader::gone() => return Ok(()),
        };
        let ended = match followed {
            Ok(true) => None,
            Ok(false) => return Ok(()),
            Err(status) => Some(status),
        };
        reconnect.wait(ended, print_note).await?;
    }
}

struct Watch<'a> {
    client: Client,
    filter: &'a DeviceFilterArgs,
    /// Where to continue after a reconnect; 0 asks for everything.
    cursor: u64,
    devices: BTreeMap<String, DeviceView>,
    /// The whole list is drawn again with each change, instead of a line for each.
    screen: bool,
    printer: Printer,
}

impl Watch<'_> {
    /// Follows one stream; false when the output is closed.
    async fn follow(
        &mut self,
        reconnect: &mut ReconnectPolicy,
    ) -> Result<Result<bool, Status>, Failure> {
        let request = v1::WatchDevicesRequest {
            selector: self.filter.selector.clone(),
            after: self.cursor,
            filter: self.filter.filter(),
        };
        let mut changes = match self.client.devices().watch_devices(request).await {
            Ok(changes) => changes.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        // Ids of a snapshot that is being sent; devices that are not in it are gone.
        let mut listed: Option<Vec<String>> = None;
        loop {
            let next = reconnect.next(&self.client, &mut changes, print_note);
            let message = match next.await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(Ok(true)),
                Err(status) => return Ok(Err(status)),
            };
            let mut lines = Vec::new();
            if message.snapshot {
                listed = Some(Vec::new());
            }
            for device in message.devices {
                if let Some(listed) = &mut listed {
                    listed.push(device.id.clone());
                }
                let id = device.id.clone();
                let view = DeviceView::from(device);
                let before = self.devices.insert(id, view.clone());
                if !before.is_some_and(|before| before.is_like(&view)) {
                    lines.push(DeviceChange::Device {
                        device: Box::new(view),
                    });
                }
            }
            let mut removed = message.removed;
            if message.cursor > 0 {
                self.cursor = message.cursor;
                if let Some(listed) = listed.take() {
                    let gone = self.devices.keys().filter(|id| !listed.contains(id));
                    removed.extend(gone.cloned());
                }
            }
            lines.extend(removed.into_iter().filter_map(|id| self.remove(&id)));
            if !self.show(&lines)? {
                return Ok(Ok(false));
            }
        }
    }

    fn remove(&mut self, id: &str) -> Option<DeviceChange> {
        let gone = self.devices.remove(id)?;
        Some(DeviceChange::Removed {
            device_id: id.to_owned(),
            name: gone.into_name(),
        })
    }

    fn show(&self, lines: &[DeviceChange]) -> Result<bool, Failure> {
        if self.screen {
            let devices: Vec<DeviceView> = self.devices.values().cloned().collect();
            return self.printer.screen(&devices, &fleet(&devices));
        }
        for line in lines {
            if !self.printer.line(line)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
