//! Who may call what: one policy per RPC, enforced in one place before any handler runs.
//!
//! A path without a policy does not exist: it is answered `UNIMPLEMENTED` here. A test walks the
//! descriptors, so that no RPC of ours is forgotten.

mod caller;
mod layer;
mod lease;
mod policy;
mod sightings;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, header::AUTHORIZATION};
use kernex_proto::ids::Digest;
use parking_lot::Mutex;
use tonic::Status;

pub(crate) use self::sightings::RefusedEnrolment;
use self::sightings::Sightings;
pub use self::{
    caller::{caller, principal, uploader},
    layer::{AuthLayer, AuthService},
    lease::Lease,
    policy::{Policy, known_path, known_paths, policy},
};
use crate::{
    edge::connections::{ConnectionHandle, Credential},
    error::{no_such_method, role_needed, token_ended, token_needed, unauthenticated},
    revocations::Revocable,
    store::{AuditResult, KnownToken, Principal, Role, Store, StoreError, TokenEnd},
};

/// How long the answer about a token is trusted. A revocation ends it at once. This limit is for
/// rows that somebody changed by hand.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// Tokens that are remembered. Operators and services of one control plane are far fewer.
const CACHE_SIZE: usize = 1024;

/// Finds out whose token a call brings, and whether it may call.
#[derive(Clone)]
pub struct Authenticator {
    store: Store,
    cache: Arc<Mutex<HashMap<Digest, CachedPrincipal>>>,
    sightings: Arc<Sightings>,
    open_reflection: bool,
}

struct CachedPrincipal {
    principal: Principal,
    until: Instant,
    /// How many tokens had been revoked before it was looked up.
    revoked: u64,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

/// An operator who may call, and for how long.
type Authorised = (Principal, Lease);

/// The token does not work. Says whose it was and how it ended, if it ever worked.
struct Unknown(Option<(Principal, TokenEnd)>);

impl Authenticator {
    /// Looks tokens up in `store`. With `open_reflection` everybody may ask for the schema.
    #[must_use]
    pub fn new(store: Store, open_reflection: bool) -> Self {
        Self {
            store,
            cache: Arc::default(),
            sightings: Arc::default(),
            open_reflection,
        }
    }

    /// Writes who used which token, and who was refused. What cannot be written is tried again the
    /// next time.
    pub(crate) async fn write_sightings(&self) -> Result<(), StoreError> {
        let (uses, refusals) = self.sightings.take();
        if uses.is_empty() && refusals.is_empty() {
            return Ok(());
        }
        let written = self.store.record_sightings(&uses, &refusals).await;
        if written.is_err() {
            self.sightings.put_back(uses, refusals);
        }
        written
    }

    /// Notes that a machine was not enrolled.
    pub(crate) fn refused_enrolment(&self, refused: RefusedEnrolment, from: IpAddr) {
        let now = self.store.now();
        self.sightings.refused_enrolment(refused, now, from);
    }

    async fn find(&self, token: &str) -> Result<Result<Authorised, Unknown>, StoreError> {
        let hash = Digest::of(token.as_bytes());
        let revocations = self.store.revocations();
        loop {
            let revoked = revocations.tokens();
            let principal = match self.remembered(hash, revoked) {
                Some(principal) => principal,
                None => match self.store.find_token(hash).await? {
                    Some(KnownToken::Works(principal)) => principal,
                    Some(KnownToken::Ended(principal, end)) => {
                        return Ok(Err(Unknown(Some((principal, end)))));
                    }
                    None => return Ok(Err(Unknown(None))),
                },
            };
            let hold = revocations.hold(Revocable::Token(principal.token_id));
            if revocations.tokens() != revoked {
                // A token was revoked meanwhile. The answer may be older than that, and the hold
                // newer.
                continue;
            }
            self.remember(hash, &principal, revoked);
            let lease = Lease::new(hold, principal.expires_at, self.store.clone());
            return Ok(Ok((principal, lease)));
        }
    }

    /// The operator that was found a moment ago. `None` when a token was revoked since, or when
    /// this one has expired.
    fn remembered(&self, hash: Digest, revoked: u64) -> Option<Principal> {
        let cache = self.cache.lock();
        let known = cache.get(&hash)?;
        let holds = known.revoked == revoked
            && Instant::now() < known.until
            && known.principal.expires_at > self.store.steady_now();
        holds.then(|| known.principal.clone())
    }

    fn remember(&self, hash: Digest, principal: &Principal, revoked: u64) {
        let now = Instant::now();
        let mut cache = self.cache.lock();
        let until = match cache.get(&hash) {
            // The limit counts from the first look-up.
            Some(known) if known.revoked == revoked && now < known.until => return,
            _ => now + CACHE_TTL,
        };
        if cache.len() >= CACHE_SIZE {
            cache.retain(|_, known| now < known.until);
        }
        if cache.len() < CACHE_SIZE {
            let principal = principal.clone();
            cache.insert(
                hash,
                CachedPrincipal {
                    principal,
                    until,
                    revoked,
                },
            );
        }
    }

    async fn allow(
        &self,
        path: &str,
        headers: &HeaderMap,
        connection: &ConnectionHandle,
    ) -> Result<Option<Authorised>, Status> {
        let Some(policy) = policy(path) else {
            return Err(no_such_method());
        };
        let role = match policy {
            Policy::Open | Policy::Agent => return Ok(None),
            Policy::Reflection if self.open_reflection => return Ok(None),
            Policy::Reflection => Role::Viewer,
            Policy::Operator(role) => role,
        };
        let token = bearer(headers).ok_or_else(token_needed)?;
        let revoked = self.store.revocations().tokens();
        if self
            .remembered(Digest::of(token.as_bytes()), revoked)
            .is_none()
        {
            connection.may_try(Credential::Bearer)?;
        }
        let found = self.find(token).await?;
        let refused = |who: Option<&Principal>, result| {
            let path = known_path(path);
            let method = path.rsplit_once('/').map_or(path, |(_, method)| method);
            let now = self.store.now();
            self.sightings
                .refused(who, method, result, now, connection.ip());
        };
        let authorised = found.map_err(|Unknown(who)| {
            connection.failed(Credential::Bearer);
            let whose = who.as_ref().map(|(principal, _)| principal);
            refused(whose, AuditResult::Unauthenticated);
            match who {
                // Its secret was right, so its holder may know.
                Some((principal, end)) => {
                    token_ended(&format!("the operator token `{}` {end}", principal.name))
                }
                None => unauthenticated(),
            }
        })?;
        connection.mark_known();
        let principal = &authorised.0;
        if principal.role < role {
            refused(Some(principal), AuditResult::Denied);
            return Err(role_needed(role, &principal.name, principal.role));
        }
        let now = self.store.now();
        self.sightings
            .used(principal.token_id, now, connection.ip());
        Ok(Some(authorised))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    use crate::{
        clock::Clock,
        store::{Caller, NewOperatorToken, Origin, Role, Scope},
    };

    #[tokio::test]
    async fn a_token_that_was_looked_up_works_until_it_expires_or_is_revoked_and_not_longer() {
        let dir = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let clock = Clock::system();
        let store = Store::open(&url, clock.clone()).await.expect("opens");
        store.migrate().await.expect("migrates");
        let caller = Caller {
            name: "ada".into(),
            scope: Scope::Everything,
            request: None,
            method: "CreateOperatorToken",
            origin: Origin::default(),
        };
        let operators = store.for_operators();
        let make = async |text: &str| {
            let new = NewOperatorToken {
                name: format!("eve, {text}"),
                role: Role::Viewer,
                hash: Digest::of(text.as_bytes()),
                ttl: Duration::from_secs(3600),
            };
            let made = operators.create_operator_token(&caller, new).await;
            made.expect("a token is made").id
        };
        let authenticator = Authenticator::new(store.clone(), false);
        let works = async |text: &str| authenticator.find(text).await.expect("asks").is_ok();
        let expiring = make("expiring").await;
        let revoked = make("revoked").await;
        assert!(works("expiring").await && works("revoked").await && !works("guessed").await);
        assert_eq!(authenticator.cache.lock().len(), 2, "they are remembered");
        operators
            .revoke_operator_token(&caller, revoked)
            .await
            .expect("revokes");
        assert!(!works("revoked").await && works("expiring").await);

        let (principal, lease) = authenticator
            .find("expiring")
            .await
            .expect("asks")
            .unwrap_or_else(|_| panic!("it works"));
        assert_eq!(principal.token_id, expiring);
        clock.advance(Duration::from_secs(3599));
        assert!(works("expiring").await);
        clock.advance(Duration::from_secs(1));
        assert!(!works("expiring").await, "though it was looked up just now");
        let status = lease.ended().await;
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains("expired"), "{status}");
    }

    #[test]
    fn only_bearer_tokens_are_read() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a header"));
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(with("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(with("bearer abc").as_deref(), Some("abc"));
        assert_eq!(with("Basic abc"), None);
        assert_eq!(with("Bearer "), None);
    }
}
