//! Who used which token, and who was refused. Each call notes it in memory, and it is written every
//! half a minute, so that no call waits for it.

use std::{collections::HashMap, net::IpAddr};

use kernex_proto::ids::TokenId;
use parking_lot::Mutex;

use crate::{
    clock::Timestamp,
    edge::connections::Source,
    store::{AuditResult, Principal, Refusal, Refused, TokenUse},
};

/// Kinds of refusals that are told apart between two writes, and tokens whose use is noted.
/// Further refusals are counted by their result alone.
const MOST_NOTED: usize = 1024;

/// The method of enrolments.
const ENROLL: &str = "Enroll";

#[derive(Debug, Default)]
pub(super) struct Sightings(Mutex<SeenTokens>);

#[derive(Debug, Default)]
struct SeenTokens {
    uses: HashMap<TokenId, TokenUse>,
    refusals: HashMap<Refused, Times>,
}

/// How often something was refused.
#[derive(Debug, Clone, Copy)]
struct Times {
    count: u64,
    last: Timestamp,
}

/// A machine that was not enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedEnrolment {
    /// The enrolment token, if the caller had its secret.
    pub(crate) token: Option<TokenId>,
    /// Name of the device that it was about, if the caller may know it.
    pub(crate) device_name: String,
    pub(crate) result: AuditResult,
    pub(crate) why: &'static str,
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
        let what = Refused {
            principal: who.map_or_else(String::new, |who| who.name.clone()),
            token: who.map(|who| who.token_id),
            address: address(from, who.is_some()),
            method,
            subject: String::new(),
            result,
            why: "",
        };
        self.count(what, at);
    }

    /// A machine was not enrolled.
    pub(super) fn refused_enrolment(&self, refused: RefusedEnrolment, at: Timestamp, from: IpAddr) {
        let token = refused.token.map(|token| format!("token {token}"));
        let what = Refused {
            address: address(from, token.is_some()),
            principal: token.unwrap_or_default(),
            // Entries have the operator token there.
            token: None,
            method: ENROLL,
            subject: refused.device_name,
            result: refused.result,
            why: refused.why,
        };
        self.count(what, at);
    }

    fn count(&self, mut what: Refused, at: Timestamp) {
        let mut seen = self.0.lock();
        if seen.refusals.len() >= MOST_NOTED && !seen.refusals.contains_key(&what) {
            what = Refused {
                principal: String::new(),
                token: None,
                address: String::new(),
                method: "",
                subject: String::new(),
                result: what.result,
                why: "",
            };
        }
        let times = seen
            .refusals
            .entry(what)
            .or_insert(Times { count: 0, last: at });
        times.last = at;
        times.count += 1;
    }

    /// Takes what has to be written.
    pub(super) fn take(&self) -> (Vec<TokenUse>, Vec<Refusal>) {
        let seen = std::mem::take(&mut *self.0.lock());
        let uses = seen.uses.into_values().collect();
        let refusals = seen.refusals.into_iter();
        let mut refusals: Vec<Refusal> = refusals
            .map(|(what, times)| Refusal {
                what,
                at: times.last,
                count: times.count,
            })
            .collect();
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
            let Refusal { what, at, count } = refusal;
            seen.refusals
                .entry(what)
                .and_modify(|newer| newer.count += count)
                .or_insert(Times { count, last: at });
        }
    }
}

/// One machine can have all addresses of a network, so strangers are counted by network. The
/// address of a known caller is kept.
fn address(from: IpAddr, is_known: bool) -> String {
    if is_known {
        from.to_string()
    } else {
        Source::from(from).to_string()
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
            .map(|one| (one.what.principal.as_str(), one.count, one.at))
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
    fn enrolments_are_counted_by_why_and_whose_they_are() {
        let seen = Sightings::default();
        let token = TokenId::generate();
        let enrol = |token, why, from| {
            let refused = RefusedEnrolment {
                token,
                device_name: String::new(),
                result: AuditResult::Unauthenticated,
                why,
            };
            seen.refused_enrolment(refused, Timestamp(1), address(from));
        };
        for _ in 0..3 {
            enrol(None, "wrong secret", 7);
        }
        enrol(None, "no such token", 7);
        enrol(Some(token), "has expired", 7);
        let (_, refusals) = seen.take();
        let mut shown: Vec<_> = refusals
            .iter()
            .map(|one| (one.what.why, one.what.principal.clone(), one.count))
            .collect();
        shown.sort();
        let of_token = format!("token {token}");
        let nobody = String::new;
        let expected = [
            ("has expired", of_token, 1),
            ("no such token", nobody(), 1),
            ("wrong secret", nobody(), 3),
        ];
        assert_eq!(shown, expected);
        assert!(refusals.iter().all(|one| one.what.method == ENROLL));
        // A holder of a token that names many devices fills nothing either.
        for number in 0..2 * MOST_NOTED {
            let refused = RefusedEnrolment {
                token: Some(token),
                device_name: format!("edge-{number}"),
                result: AuditResult::Denied,
                why: "the name is taken",
            };
            seen.refused_enrolment(refused, Timestamp(1), address(7));
        }
        assert_eq!(seen.take().1.len(), MOST_NOTED + 1);
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
