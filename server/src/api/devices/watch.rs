//! Devices, watched: all of them first, then changes, without end.
//!
//! The server does not remember what it sent. It reads a device again after each event about it,
//! many at once. So a watcher that comes back with its cursor is served like one that never left.

use std::{collections::BTreeSet, sync::Arc};

use kernex_proto::{ids::DeviceId, v1};
use tokio_stream::Stream;
use tonic::{Code, Status};

use crate::{
    api::{
        Api,
        feed::{Follower, Start},
        wire::fitting::parts,
    },
    store::{DeviceFilter, EventRow, MAX_PAGE, Page, Scope, View},
};

/// Follows the devices that a filter takes. The watcher has seen events up to `after`; 0 asks
/// for all devices first.
pub(super) async fn follow(
    api: Arc<Api>,
    view: View,
    filter: DeviceFilter,
    after: u64,
) -> Result<impl Stream<Item = Result<v1::WatchDevicesResponse, Status>> + Send, Status> {
    let (mut follower, from_the_start) = begin(&api, view.scope(), after).await?;
    Ok(async_stream::try_stream! {
        if from_the_start {
            let mut page = Page::first(MAX_PAGE);
            let mut first = true;
            loop {
                let paged = view.list_devices(&filter, page).await?;
                let last = paged.next.is_none();
                let devices = paged.items.into_iter().map(v1::Device::from).collect();
                // A device that changes meanwhile is sent again afterwards.
                let cursor = if last { follower.cursor() } else { 0 };
                for message in messages(devices, Vec::new(), cursor) {
                    yield v1::WatchDevicesResponse { snapshot: first, ..message };
                    first = false;
                }
                if last {
                    break;
                }
                page = Page { size: MAX_PAGE, token: paged.next };
            }
        }
        loop {
            let touched = touched(&follower.next().await?);
            if touched.is_empty() {
                continue;
            }
            let devices = view.devices_among(&filter, &touched).await?;
            let mut gone = touched;
            for device in &devices {
                gone.remove(&device.id);
            }
            let devices = devices.into_iter().map(v1::Device::from).collect();
            let gone = gone.into_iter().map(|id| id.to_string()).collect();
            for message in messages(devices, gone, follower.cursor()) {
                yield message;
            }
        }
    })
}

/// Where to begin, and whether all devices are sent first. They are also when the events after
/// `after` are no longer kept.
async fn begin(api: &Api, scope: Scope, after: u64) -> Result<(Follower, bool), Status> {
    if after > 0 {
        match api
            .feed
            .follow(scope, Start::After(after), api.draining.clone())
            .await
        {
            Ok(follower) => return Ok((follower, false)),
            Err(status) if status.code() == Code::OutOfRange => {}
            Err(status) => return Err(status),
        }
    }
    let follower = api
        .feed
        .follow(scope, Start::Now, api.draining.clone())
        .await?;
    Ok((follower, true))
}

/// The devices whose picture these events may have changed.
fn touched(events: &[EventRow]) -> BTreeSet<DeviceId> {
    let matters = |event: &&EventRow| {
        let (subject, what) = event.kind.split_once('.').unwrap_or_default();
        match subject {
            "device" => true,
            // Only an outcome changes what a device runs.
            "attempt" => matches!(what, "succeeded" | "failed" | "cancelled" | "late"),
            _ => false,
        }
    };
    let events = events.iter().filter(matters);
    events.filter_map(|event| event.device).collect()
}

/// One message, or several where one would be larger than clients take; the last carries the
/// cursor.
fn messages(
    devices: Vec<v1::Device>,
    removed: Vec<String>,
    cursor: u64,
) -> Vec<v1::WatchDevicesResponse> {
    let parts = parts(devices).into_iter();
    let mut messages: Vec<_> = parts
        .map(|devices| v1::WatchDevicesResponse {
            devices,
            ..Default::default()
        })
        .collect();
    if let Some(last) = messages.last_mut() {
        last.removed = removed;
        last.cursor = cursor;
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn only_what_changes_the_picture_of_a_device_has_it_read_again() {
        let id = DeviceId::generate();
        let table = [
            ("device.online", true),
            ("device.drifted", true),
            ("attempt.succeeded", true),
            ("attempt.late", true),
            ("attempt.accepted", false),
            ("deployment.created", false),
        ];
        for (kind, expected) in table {
            let event = EventRow {
                cursor: 1,
                at: Timestamp(1),
                kind: kind.into(),
                device: Some(id),
                deployment: None,
                device_name: None,
                deployment_name: None,
                bundle: None,
                detail_json: "{}".into(),
            };
            assert_eq!(touched(&[event]).contains(&id), expected, "{kind}");
        }
    }

    #[test]
    fn only_the_last_message_of_a_change_carries_its_cursor() {
        let device = |labels: usize| v1::Device {
            labels: [("x".to_owned(), "y".repeat(labels))].into(),
            ..Default::default()
        };
        let many = messages(
            (0..10).map(|_| device(1 << 20)).collect(),
            vec!["a".into()],
            7,
        );
        assert!(many.len() > 1);
        let cursors: Vec<u64> = many.iter().map(|message| message.cursor).collect();
        assert_eq!(cursors.iter().filter(|cursor| **cursor > 0).count(), 1);
        assert_eq!(cursors.last(), Some(&7));
        assert_eq!(messages(Vec::new(), Vec::new(), 3).len(), 1);
    }
}
