//! The connection to a control plane: TLS against the context's CA, and what every call gets (see
//! `calls`).

mod calls;

use std::{future::Future, sync::Arc, time::Duration};

use http::HeaderValue;
use kernex_proto::{
    connect::{
        AddressError, ControlPlane,
        doctor::{CheckStep, examine},
        proxy::Proxies,
    },
    trust::{Dates, PinnedCa, ServerTrust, SystemRoots},
    v1::{
        access_service_client::AccessServiceClient, audit_service_client::AuditServiceClient,
        bundle_service_client::BundleServiceClient,
        configuration_service_client::ConfigurationServiceClient,
        deployment_service_client::DeploymentServiceClient,
        device_service_client::DeviceServiceClient, event_service_client::EventServiceClient,
        fleet_service_client::FleetServiceClient, plan_service_client::PlanServiceClient,
        rollout_service_client::RolloutServiceClient,
    },
};
use tonic::transport::Channel;

use self::calls::Calls;
use crate::{
    context::{Context, SYSTEM_CA, process_env},
    error::{Exit, Failure},
};

/// A server that does not take a connection within this time is unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The first message of a watch carries every target, each with up to 64 KiB of output.
const LARGEST_MESSAGE: usize = 256 * 1024 * 1024;

pub(crate) type Connection = Calls<Channel>;

#[derive(Clone)]
pub(crate) struct Client {
    connection: Connection,
}

impl Client {
    /// Connects, through the proxy of the environment if there is one; the server has to be there.
    pub(crate) async fn connect(context: &Context) -> Result<Self, Failure> {
        Self::connect_by(context, None).await
    }

    /// The same, through the proxy of the command line.
    pub(crate) async fn connect_by(
        context: &Context,
        proxy: Option<&str>,
    ) -> Result<Self, Failure> {
        let server = &context.server;
        let trust = match context.ca.as_deref() {
            Some(ca) if server.starts_with("https://") => Some(trusted(ca)?),
            _ => None,
        };
        let proxies = Proxies::new(proxy, process_env).map_err(|error| {
            Failure::usage(
                error.to_string(),
                "Correct `--proxy`, KERNEX_PROXY or `https_proxy`; `--proxy ''` goes without one.",
            )
        })?;
        let by_name = context.ca.as_deref() == Some(SYSTEM_CA);
        let unreachable = |error: &(dyn std::error::Error + 'static)| {
            if by_name {
                Failure::unreachable_by_name(server, error)
            } else {
                Failure::unreachable(server, error)
            }
        };
        let control_plane = ControlPlane::verified_by(server, trust, CONNECT_TIMEOUT)
            .map_err(|error| match error {
                AddressError::NoCa(_) => Failure::usage(
                    format!("the CA of {server} is not known"),
                    "Give the server's `ca.pem`: `kernexctl context add NAME --server URL --ca FILE ...`, or KERNEX_CA.",
                ),
                error => unreachable(&error),
            })?
            // Servers ping their callers; this notices a server that disappeared silently.
            .keepalive(Duration::from_secs(20))
            .through(&proxies);
        let endpoint = control_plane
            .endpoint()
            .user_agent(concat!("kernexctl/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| unreachable(&error))?;
        if server.starts_with("http://") {
            Box::pin(refuse_tls(server)).await?;
        }
        let mut bearer: HeaderValue =
            format!("Bearer {}", context.token.trim())
                .parse()
                .map_err(|_| {
                    Failure::new(
                        Exit::NotAllowed,
                        "the operator token holds characters that no token has",
                        "Copy the token whole, without quotes or line breaks.",
                    )
                })?;
        bearer.set_sensitive(true);
        let channel = control_plane
            .channel(&endpoint)
            .await
            .map_err(|error| unreachable(&error))?;
        Ok(Self {
            connection: Calls::new(channel, bearer),
        })
    }

    pub(crate) fn access(&self) -> AccessServiceClient<Connection> {
        AccessServiceClient::new(self.connection.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn audit(&self) -> AuditServiceClient<Connection> {
        AuditServiceClient::new(self.connection.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn bundles(&self) -> BundleServiceClient<Connection> {
        BundleServiceClient::new(self.connection.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn deployments(&self) -> DeploymentServiceClient<Connection> {
        DeploymentServiceClient::new(self.connection.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn rollouts(&self) -> RolloutServiceClient<Connection> {
        RolloutServiceClient::new(self.connection.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn configurations(&self) -> ConfigurationServiceClient<Connection> {
        ConfigurationServiceClient::new(self.connection.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn plans(&self) -> PlanServiceClient<Connection> {
        PlanServiceClient::new(self.connection.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn events(&self) -> EventServiceClient<Connection> {
        EventServiceClient::new(self.connection.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn fleet(&self) -> FleetServiceClient<Connection> {
        FleetServiceClient::new(self.connection.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn devices(&self) -> DeviceServiceClient<Connection> {
        DeviceServiceClient::new(self.connection.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }
}

/// Fails when the port of an `http://` server speaks TLS. The first call would only break off
/// there, without a reason.
async fn refuse_tls(server: &str) -> Result<(), Failure> {
    let now = crate::text::Time::now().unix();
    let findings = examine(server, None, &Proxies::default(), now, CONNECT_TIMEOUT).await;
    let at_tls = findings
        .into_iter()
        .find(|finding| finding.step == CheckStep::Tls);
    match at_tls.map(|finding| (finding.text, finding.next)) {
        Some((text, Some(next))) => Err(Failure::new(
            Exit::Unreachable,
            format!("cannot reach {server}: {text}"),
            next,
        )),
        _ => Ok(()),
    }
}

/// The CA of a context. Dates of certificates are checked.
pub(crate) fn trusted(ca: &str) -> Result<ServerTrust, Failure> {
    if ca == SYSTEM_CA {
        let roots = SystemRoots::load().map_err(|error| {
            Failure::usage(
                error.to_string(),
                "Or take the `ca.pem` of the server's data folder: `kernexctl context add ... --ca FILE`.",
            )
        })?;
        return Ok(Arc::new(roots));
    }
    let pinned = PinnedCa::from_pem(ca, Dates::Count).ok_or_else(|| {
        Failure::usage(
            "the CA of the context is not a certificate in PEM",
            "Take a fresh `ca.pem` from the server's data folder.",
        )
    })?;
    Ok(pinned)
}

/// The id that makes a change safe to repeat.
pub(crate) fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Which page of a list is asked for.
pub(crate) struct PageRequest {
    /// At most this many items.
    pub(crate) size: u32,
    /// `next` of the page before; empty for the first.
    pub(crate) token: String,
    /// Whether the server is to count all items.
    pub(crate) count: bool,
}

/// A page of a list.
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Token of the next page; empty on the last one.
    pub(crate) next: String,
    /// How many items there are on all pages, when the server counted them.
    pub(crate) total: Option<u64>,
}

/// The first items of a list.
pub(crate) struct Listed<T> {
    pub(crate) items: Vec<T>,
    /// How many there are, as far as it is known.
    pub(crate) total: Option<u64>,
    /// Whether there are more than these.
    pub(crate) more: bool,
}

/// Fetches page after page, up to `limit` items, and how many there are. A server that does not
/// know filters would answer with everything, so `filtered` lists need its count.
pub(crate) async fn counted_pages<T, F, Fut>(
    limit: Option<u32>,
    filtered: bool,
    mut fetch: F,
) -> Result<Listed<T>, Failure>
where
    F: FnMut(PageRequest) -> Fut,
    Fut: Future<Output = Result<Page<T>, Failure>>,
{
    /// The most that servers give at once.
    const PAGE: usize = 1000;
    let most = limit.map_or(usize::MAX, |limit| limit as usize);
    let mut items = Vec::new();
    let mut token = String::new();
    let mut total = None;
    let mut count = filtered || limit.is_some();
    while items.len() < most {
        let size = PAGE.min(most - items.len()) as u32;
        let page = fetch(PageRequest { size, token, count }).await?;
        if count && filtered && page.total.is_none() {
            return Err(Failure::new(
                Exit::Error,
                "the server is older than this program and knows no filters",
                "Leave the filters out, or update the server.",
            ));
        }
        total = total.or(page.total);
        count = false;
        items.extend(page.items);
        token = page.next;
        if token.is_empty() {
            total = total.or(Some(items.len() as u64));
            break;
        }
    }
    let more = !token.is_empty() || items.len() > most;
    items.truncate(most);
    Ok(Listed { items, total, more })
}

/// Fetches page after page, up to `limit` items. `fetch` gets the page size and token and returns
/// the next token.
pub(crate) async fn pages<T, F, Fut>(limit: Option<u32>, fetch: F) -> Result<Vec<T>, Failure>
where
    F: FnMut(u32, String) -> Fut,
    Fut: Future<Output = Result<(Vec<T>, String), Failure>>,
{
    Ok(uncounted_pages(limit, fetch).await?.items)
}

/// The same, and whether there are more.
pub(crate) async fn uncounted_pages<T, F, Fut>(
    limit: Option<u32>,
    mut fetch: F,
) -> Result<Listed<T>, Failure>
where
    F: FnMut(u32, String) -> Fut,
    Fut: Future<Output = Result<(Vec<T>, String), Failure>>,
{
    counted_pages(limit, false, |page: PageRequest| {
        let page = fetch(page.size, page.token);
        async move {
            let (items, next) = page.await?;
            Ok(Page {
                items,
                next,
                total: None,
            })
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_are_fetched_up_to_the_limit() {
        let fetch = |size: u32, token: String| async move {
            let start: u32 = token.parse().unwrap_or(0);
            let end = (start + size).min(450);
            let next = if end == 450 {
                String::new()
            } else {
                end.to_string()
            };
            Ok(((start..end).collect::<Vec<_>>(), next))
        };
        assert_eq!(pages(None, fetch).await.unwrap().len(), 450);
        assert_eq!(pages(Some(7), fetch).await.unwrap(), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(pages(Some(250), fetch).await.unwrap().len(), 250);
    }

    #[tokio::test]
    async fn a_list_is_counted_once_and_a_server_without_filters_is_noticed() {
        let asked = std::cell::Cell::new(0);
        let answer = |page: PageRequest, knows: bool| {
            asked.set(asked.get() + u32::from(page.count));
            let start: u32 = page.token.parse().unwrap_or(0);
            let end = (start + page.size).min(2500);
            async move {
                Ok(Page {
                    items: (start..end).collect(),
                    next: if end < 2500 {
                        end.to_string()
                    } else {
                        String::new()
                    },
                    total: (knows && page.count).then_some(2500),
                })
            }
        };
        let listed = counted_pages(Some(1500), true, |page| answer(page, true)).await;
        let listed = listed.unwrap();
        assert_eq!((listed.items.len(), listed.total), (1500, Some(2500)));
        assert_eq!(asked.get(), 1);
        let all = counted_pages(None, false, |page| answer(page, false)).await;
        assert_eq!(all.unwrap().total, Some(2500));
        assert_eq!(asked.get(), 1, "nothing is cut, so nothing is counted");
        let old = counted_pages(None, true, |page| answer(page, false)).await;
        assert!(old.is_err_and(|failure| failure.message.contains("older")));
    }
}
