//! Devices of a server: `server.agent("edge-1")`.

use kernex_proto::v1::CreateEnrollmentTokenRequest;

use super::TestServer;
use crate::{
    agent::{AgentOptions, TestAgent},
    keys,
    raw_agent::RawIdentity,
    wait::insist,
};

/// Agents that enrol at the same time; each takes a core for its key.
const SIDE_BY_SIDE: usize = 2;

impl TestServer {
    /// Starts a real agent with this name, enrolled and online.
    pub async fn agent(&self, name: &str) -> TestAgent {
        self.agent_with(AgentOptions::named(name)).await
    }

    /// Starts a real agent with options, enrolled and online.
    pub async fn agent_with(&self, options: AgentOptions) -> TestAgent {
        let agent = TestAgent::enrol(self, options).await;
        self.operator.online(&agent.name).await;
        agent
    }

    /// Starts so many real agents, `edge-01` and on, enrolled and online. Their keys are made in a
    /// moment.
    ///
    /// # Panics
    /// When one does not enrol.
    pub async fn agents(&self, count: usize) -> Vec<TestAgent> {
        let request = CreateEnrollmentTokenRequest {
            uses: count as u32,
            ..Default::default()
        };
        let token = self.operator.enrollment_token_for(request).await;
        let enrol = |(number, key): (usize, &String)| {
            let options = AgentOptions::named(&format!("edge-{:02}", number + 1));
            TestAgent::enrol_with(self.scratch(), &self.url(), &token, key, options)
        };
        let keys = keys::derived_pems(count);
        let agents: Vec<TestAgent> = tokio::task::block_in_place(|| {
            let numbered: Vec<_> = keys.iter().enumerate().collect();
            std::thread::scope(|scope| {
                let share = count.div_ceil(SIDE_BY_SIDE).max(1);
                let start = |share: Vec<_>| scope.spawn(|| share.into_iter().map(enrol).collect());
                let threads: Vec<_> = numbered
                    .chunks(share)
                    .map(<[_]>::to_vec)
                    .map(start)
                    .collect();
                let agents = threads
                    .into_iter()
                    .map(|thread| thread.join().expect("they enrol"));
                agents.flat_map(|agents: Vec<_>| agents).collect()
            })
        });
        for agent in &agents {
            self.operator.online(&agent.name).await;
        }
        agents
    }

    /// Enrols a device that the test itself speaks for.
    pub async fn raw_device(&self, name: &str) -> RawIdentity {
        let token = self.operator.enrollment_token(&[]).await;
        let key = self.new_key();
        let enrolled = insist(|| RawIdentity::enrol(self, &token, key, name)).await;
        enrolled.expect("a fresh key and name enrol")
    }
}
