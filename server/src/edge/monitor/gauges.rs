//! Reads the figures of a scrape that are not counted as they happen.
//!
//! Each question has little time. One that is not answered keeps its last figures. Another figure
//! shows that the database does not answer.

use std::{future::Future, sync::Arc, time::Duration};

use crate::{
    blobs::Blobs,
    delivery::{registry::Registry, wake_ups::WakeUps},
    edge::tls::Identity,
    error::chain,
    metrics::{Metrics, set},
    recorder::Recorder,
    store::{Scope, Store, StoreError},
};

/// Longest wait for a question to the database.
const QUESTION_LIMIT: Duration = Duration::from_secs(2);
/// Versions of agents that have a series of their own. The others share one.
const VERSIONS: usize = 12;
/// The label of the shared series.
const OTHER_VERSIONS: &str = "other";

/// Where the figures come from.
#[derive(Debug)]
pub(crate) struct Gauges {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) store: Store,
    pub(crate) registry: Arc<Registry>,
    pub(crate) wake_ups: Arc<WakeUps>,
    pub(crate) recorder: Recorder,
    pub(crate) blobs: Blobs,
    pub(crate) identity: Option<Arc<Identity>>,
}

impl Gauges {
    pub(super) async fn read_gauges(&self) {
        self.read_memory();
        self.read_database().await;
        self.read_disk().await;
    }

    fn read_memory(&self) {
        let metrics = &self.metrics;
        set(&metrics.sessions.open, self.registry.len());
        let waiting = self.recorder.backlog();
        for (queue, length) in [
            ("hints", self.wake_ups.waiting_devices()),
            ("reports", waiting.reports),
            ("heartbeats", waiting.heartbeats),
            ("progress", waiting.progress),
        ] {
            set(&metrics.scraped.waiting.with_label(queue), length);
        }
        for (pool, doing, connections) in self.store.connections() {
            let labels = [("pool", pool), ("state", doing)];
            set(
                &metrics.scraped.pool.get_or_create_owned(&labels),
                connections,
            );
        }
        let Some(identity) = &self.identity else {
            return;
        };
        for (certificate, ends) in identity.ends() {
            metrics
                .scraped
                .certificates
                .with_label(certificate)
                .set(ends);
        }
    }

    async fn read_database(&self) {
        let metrics = &self.metrics;
        let view = self.store.for_operators().view(Scope::Everything);
        if let Some(counts) = ask("deployments", view.deployment_counts()).await {
            for (state, count) in counts {
                set(
                    &metrics.scraped.deployments.with_label(state.as_str()),
                    count,
                );
            }
        }
        if let Some(count) = ask("drift", view.drifted_devices()).await {
            set(&metrics.scraped.drifted, count);
        }
        if let Some(counts) = ask("devices", view.fleet_counts()).await {
            for (status, count) in &counts.by_status {
                set(&metrics.scraped.devices.with_label(status.as_str()), *count);
            }
            let versions = most_frequent(counts.by_version);
            metrics.scraped.agents.clear();
            for (version, count) in versions {
                let labels = [("version", version)];
                set(&metrics.scraped.agents.get_or_create_owned(&labels), count);
            }
        }
        if let Some(counts) = ask("tokens", view.token_counts()).await {
            for (ends, count) in counts {
                set(&metrics.scraped.operator_tokens.with_label(ends), count);
            }
        }
        if let Some(bytes) = ask("bundles", view.bundle_bytes()).await {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            metrics
                .scraped
                .bundle_store
                .with_label("bundles")
                .set(bytes);
        }
    }

    async fn read_disk(&self) {
        let blobs = self.blobs.clone();
        // A network file system may be slow.
        let looking = tokio::task::spawn_blocking(move || blobs.disk());
        match tokio::time::timeout(QUESTION_LIMIT, looking).await {
            Ok(Ok(Some(disk))) => {
                for (kind, bytes) in [("free", disk.free), ("size", disk.size)] {
                    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                    self.metrics
                        .scraped
                        .bundle_store
                        .with_label(kind)
                        .set(bytes);
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the disk was not looked at"),
            Err(_) => tracing::debug!("the disk was not looked at in time"),
        }
    }
}

async fn ask<T>(what: &str, question: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
    match tokio::time::timeout(QUESTION_LIMIT, question).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::debug!(what, error = %chain(&error), "not counted");
            None
        }
        Err(_) => {
            tracing::debug!(what, "not counted in time");
            None
        }
    }
}

/// The versions that most devices have. Agents may say anything, so only what looks like a version
/// is named, and only a few.
fn most_frequent(counts: Vec<(String, usize)>) -> Vec<(String, usize)> {
    let (mut named, strange): (Vec<_>, Vec<_>) = counts
        .into_iter()
        .partition(|(version, _)| looks_like_version(version));
    named.sort_by(|(one, few), (other, many)| many.cmp(few).then_with(|| one.cmp(other)));
    let rest = named.split_off(named.len().min(VERSIONS));
    let others: usize = rest.iter().chain(&strange).map(|(_, count)| count).sum();
    // Also when there are none, so that the series is there from the first scrape on.
    named.push((OTHER_VERSIONS.to_owned(), others));
    named
}

fn looks_like_version(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+');
    let begins = text
        .bytes()
        .next()
        .is_some_and(|first| first.is_ascii_digit());
    begins && text.len() <= 32 && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_versions_are_named_whatever_agents_say() {
        let mut counts: Vec<_> = (1..=20).map(|n| (format!("1.{n}.0"), n)).collect();
        counts.push(("evil\"} 1\n".to_owned(), 3));
        counts.push((String::new(), 4));
        let named = most_frequent(counts);
        assert_eq!(named.len(), VERSIONS + 1);
        assert_eq!(named[0], ("1.20.0".to_owned(), 20));
        let rest: usize = (1..=8).sum();
        assert_eq!(named[VERSIONS], (OTHER_VERSIONS.to_owned(), rest + 7));
        assert_eq!(most_frequent(Vec::new()), [(OTHER_VERSIONS.to_owned(), 0)]);
    }
}
