//! The long-lived tasks of the server, by name. They are started, watched and awaited here, so that
//! none dies silently.

use std::future::Future;

use anyhow::anyhow;
use tokio::task::JoinSet;

#[derive(Default)]
pub(crate) struct Parts(JoinSet<&'static str>);

impl Parts {
    pub(crate) fn start(
        &mut self,
        name: &'static str,
        part: impl Future<Output = ()> + Send + 'static,
    ) {
        self.0.spawn(async move {
            part.await;
            name
        });
    }

    /// Waits until a part ends although nothing was asked to stop.
    pub(crate) async fn unexpected_end(&mut self) -> anyhow::Error {
        match self.0.join_next().await {
            Some(Ok(name)) => anyhow!("the part `{name}` ended by itself"),
            Some(Err(error)) => anyhow!(error).context("a part of the server failed"),
            None => anyhow!("nothing runs"),
        }
    }

    pub(crate) async fn finished(&mut self) {
        while let Some(ended) = self.0.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a part of the server failed while stopping");
            }
        }
    }
}
