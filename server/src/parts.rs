//! The long-lived tasks of the server by name: started here, watched and awaited, so that none dies
//! silently.

use std::future::Future;

use anyhow::anyhow;
use tokio::task::JoinSet;

/// The long-lived tasks by name.
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

    /// Waits for a part that ends although nothing stops.
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
