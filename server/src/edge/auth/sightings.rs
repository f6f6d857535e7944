//! Who used which token, and who was refused. Each call notes it in memory, and it is written every
//! half a minute, so that no call waits for it.

use std::{collections::HashMap, net::IpAddr};

use kernex_proto::ids::TokenId;
use parking_lot::Mutex;

use crate::{
    clock::Timestamp,
    edge::connections::Source,
    store::{AuditResult, Principal, Refusal, TokenUse},
};

/// Kinds of refusals that are told apart between two writes, and tokens whose use is noted.
/// Refusals from further addresses are counted under no address.
const MOST_NOTED: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Sightings(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    uses: HashMap<TokenId, TokenUse>,
    refusals: HashMap<Alike, Refusal>,
}

/// Refusals that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Alike {
    token: Option<TokenId>,
    address: String,
    method: &'static str,
    result: AuditResult,
}

impl Sightings {
    /// A call was let through.
    pub(super) fn used(&self, token: TokenId, at: Timestamp, from: IpAddr) {
        let mut seen = self.0.lock();
        if seen.uses.len() < MOST_NOTED || seen.uses.contains_key(&token) {
            seen.uses.insert(token, TokenUse { token, at, from });
        }
    }

    /// A call was refused. `who` owns the token, if it ever worked.
    pub(super) fn refused(
        &self,
        who: Option<&Principal>,
        method: &'static str,
        result: AuditResult,
        at: Timestamp,
        from: IpAddr,
    ) {
        // One machine can have all addresses of a network, so strangers are counted by network. The
        // address of a known caller is kept.
        let address = match who {
            Some(_) => from.to_string(),
            None => Source::from(from).to_string(),
        };
        let mut alike = Alike {
            token: who.map(|who| who.token_id),
            address,
            method,
            result,
        };
        let mut seen = self.0.lock();
        let mut principal = who.map_or("", |who| who.name.as_str());
        if seen.refusals.len() >= MOST_NOTED && !seen.refusals.contains_key(&alike) {
            alike = Alike {
                token: None,
                address: String::new(),
                method: "",
                result,
            };
            principal = "";
        }
        let refusal = seen
            .refusals
            .entry(alike)
            .or_insert_with_key(|alike| Refusal {
                principal: principal.to_owned(),
                token: alike.token,
                address: alike.address.clone(),
                method: alike.method,
                result: alike.result,
                at,
                count: 0,
            });
        refusal.at = at;
        refusal.count += 1;
    }

    /// Takes what has to be written.
    pub(super) fn take(&self) -> (Vec<TokenUse>, Vec<Refusal>) {
        let seen = std::mem::take(&mut *self.0.lock());
        let uses = seen.uses.into_values().collect();
        let mut refusals: Vec<Refusal> = seen.refusals.into_values().collect();
        refusals.sort_by_key(|refusal| refusal.at);
        (uses, refusals)
    }

    /// Takes back what could not be written. What was seen meanwhile is newer.
    pub(super) fn put_back(&self, uses: Vec<TokenUse>, refusals: Vec<Refusal>) {
        let mut seen = self.0.lock();
        for used in uses {
            seen.uses.entry(used.token).or_insert(used);
        }
        for refusal in refusals {
            let alike = Alike {
                token: refusal.token,
                address: refusal.address.clone(),
                method: refusal.method,
                result: refusal.result,
            };
            let count = refusal.count;
            seen.refusals
                .entry(alike)
                .and_modify(|newer| newer.count += count)
                .or_insert(refusal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    use crate::store::Role;

    const METHOD: &str = "DeleteDevice";

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    fn ada() -> Principal {
        Principal {
            token_id: TokenId::generate(),
            name: "ada".into(),
            role: Role::Viewer,
            expires_at: Timestamp(0),
        }
    }

    #[test]
    fn the_last_use_of_a_token_counts_and_refusals_alike_are_one() {
        let seen = Sightings::default();
        let ada = ada();
        for (at, from) in [(1, 7), (2, 8)] {
            seen.used(ada.token_id, Timestamp(at), address(from));
            seen.refused(
                Some(&ada),
                METHOD,
                AuditResult::Denied,
                Timestamp(at),
                address(9),
            );
            seen.refused(
                None,
                METHOD,
                AuditResult::Unauthenticated,
                Timestamp(at),
                address(9),
            );
        }
        let (uses, refusals) = seen.take();
        assert_eq!((uses[0].at, uses[0].from), (Timestamp(2), address(8)));
        let shown: Vec<_> = refusals
            .iter()
            .map(|one| (one.principal.as_str(), one.count, one.at))
            .collect();
        assert_eq!(shown.len(), 2);
        assert!(shown.contains(&("ada", 2, Timestamp(2))), "{shown:?}");
        assert!(shown.contains(&("", 2, Timestamp(2))), "{shown:?}");
        seen.refused(
            Some(&ada),
            METHOD,
            AuditResult::Denied,
            Timestamp(3),
            address(9),
        );
        seen.put_back(uses, refusals);
        let (uses, refusals) = seen.take();
        assert_eq!(uses.len(), 1);
        let counts = refusals.iter().map(|one| one.count).sum::<u64>();
        assert_eq!(counts, 5, "nothing is lost when it cannot be written");
        assert_eq!(seen.take(), (Vec::new(), Vec::new()));
    }

    #[test]
    fn however_many_addresses_try_only_so_many_are_told_apart() {
        let seen = Sightings::default();
        for number in 0..3 * MOST_NOTED as u32 {
            let from = address(number);
            seen.refused(
                None,
                METHOD,
                AuditResult::Unauthenticated,
                Timestamp(1),
                from,
            );
        }
        let (_, refusals) = seen.take();
        assert_eq!(refusals.len(), MOST_NOTED + 1);
        let counts = refusals.iter().map(|one| one.count).sum::<u64>();
        assert_eq!(counts, 3 * MOST_NOTED as u64);
    }
}
