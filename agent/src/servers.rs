//! Which address of the control plane is used: the one that worked last. After a connection that
//! could not be made it is the next one.

use crate::{config::Config, identity::Identity};

/// The addresses of one control plane, such as those of its replicas. All of them are trusted
/// alike.
#[derive(Debug, Clone)]
pub(crate) struct Servers {
    all: Vec<String>,
    at: usize,
}

impl Servers {
    /// Those that are configured; otherwise the one of the enrolment.
    pub(crate) fn new(config: &Config, identity: &Identity) -> Self {
        let all = match config.servers.as_slice() {
            [] => vec![identity.server.clone()],
            configured => configured.to_vec(),
        };
        Self { all, at: 0 }
    }

    pub(crate) fn current(&self) -> &str {
        // There is always one.
        self.all.get(self.at).map_or("", String::as_str)
    }

    /// Goes on to the next address, and from the last one to the first.
    pub(crate) fn advance(&mut self) {
        self.at = (self.at + 1) % self.all.len().max(1);
    }
}

#[cfg(test)]
mod tests {
    use kernex_proto::ids::{ClusterId, DeviceId};

    use super::*;

    #[test]
    fn addresses_take_turns_and_the_enrolment_knows_one() {
        let identity = Identity {
            device: DeviceId::generate(),
            name: "edge-1".into(),
            server: "https://enrolled:1".into(),
            cluster: ClusterId::generate(),
            ca_pem: String::new(),
            webpki: None,
            protocol_revision: 2,
        };
        let mut config = Config::new("/s");
        let mut alone = Servers::new(&config, &identity);
        alone.advance();
        assert_eq!(alone.current(), "https://enrolled:1");
        config.servers = vec!["https://a:1".into(), "https://b:1".into()];
        let mut two = Servers::new(&config, &identity);
        let mut used = Vec::new();
        for _ in 0..3 {
            used.push(two.current().to_owned());
            two.advance();
        }
        assert_eq!(used, ["https://a:1", "https://b:1", "https://a:1"]);
    }
}
