//! Who may call what: one policy per RPC, enforced in one place before any handler runs.
//!
//! A path without a policy does not exist: it is answered `UNIMPLEMENTED` here, and a test walks
//! the descriptors so that no RPC of ours can be forgotten.

mod lease;
mod policy;
mod sightings;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use kernex_proto::ids::Digest;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use uuid::Uuid;

pub use self::{
    lease::Lease,
    policy::{Policy, known_path, known_paths, policy},
};
use self::{
    lease::{LeaseEnd, Leased},
    policy::answers_go_on,
    sightings::Sightings,
};
use crate::{
    edge::connections::{ConnectionHandle, Credential},
    error::{invalid, no_such_method, role_needed, token_needed, unauthenticated},
    revocations::Subject,
    store::{
        AuditResult, Caller, KnownToken, Origin, Principal, RequestKey, Role, Store, StoreError,
    },
};

/// How long the answer about a token is trusted. A revocation ends it at once; this limit is for
/// rows that were changed by hand.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// Tokens remembered; operators and services of one control plane are far fewer.
const CACHE_SIZE: usize = 1024;

/// Finds out who a token belongs to.
#[derive(Clone)]
pub struct Authenticator {
    store: Store,
    cache: Arc<Mutex<HashMap<Digest, CachedPrincipal>>>,
    sightings: Arc<Sightings>,
    open_reflection: bool,
}

/// The operator that was found for a token.
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

/// An operator who may call, and for how long that holds.
type Authorised = (Principal, Lease);

/// The token does not work; whose it was, if it ever did.
struct Unknown(Option<Principal>);

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

    /// Writes down who used which token, and who was refused. What cannot be written is tried again
    /// with the next.
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

    async fn find(&self, token: &str) -> Result<Result<Authorised, Unknown>, StoreError> {
        let hash = Digest::of(token.as_bytes());
        let revocations = self.store.revocations();
        loop {
            let revoked = revocations.tokens();
            let principal = match self.remembered(hash, revoked) {
                Some(principal) => principal,
                None => match self.store.find_token(hash).await? {
                    Some(KnownToken::Works(principal)) => principal,
                    Some(KnownToken::Ended(principal)) => return Ok(Err(Unknown(Some(principal)))),
                    None => return Ok(Err(Unknown(None))),
                },
            };
            let hold = revocations.hold(Subject::Token(principal.token_id));
            if revocations.tokens() != revoked {
                // What was read may be older than that, and the hold newer.
                continue;
            }
            self.remember(hash, &principal, revoked);
            let lease = Lease::new(hold, principal.expires_at, self.store.clone());
            return Ok(Ok((principal, lease)));
        }
    }

    /// Who was found a moment ago, unless a token was revoked since, or this one has expired.
    fn remembered(&self, hash: Digest, revoked: u64) -> Option<Principal> {
        let cache = self.lock();
        let known = cache.get(&hash)?;
        let holds = known.revoked == revoked
            && Instant::now() < known.until
            && known.principal.expires_at > self.store.steady_now();
        holds.then(|| known.principal.clone())
    }

    fn remember(&self, hash: Digest, principal: &Principal, revoked: u64) {
        let now = Instant::now();
        let mut cache = self.lock();
        let until = match cache.get(&hash) {
            // From when it was looked up.
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, CachedPrincipal>> {
        self.cache.lock()
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
            refused(who.as_ref(), AuditResult::Unauthenticated);
            unauthenticated()
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

/// The caller of a mutation, for audit and for requests that are safe to repeat.
pub fn caller<T: prost::Message>(
    request: &tonic::Request<T>,
    method: &'static str,
    request_id: &str,
) -> Result<Caller, Status> {
    let key = match request_id {
        "" => None,
        text => {
            let id = Uuid::try_parse(text)
                .map_err(|_| invalid("request_id", "it has to be a UUID, or empty"))?;
            Some(RequestKey::new(id, request.get_ref()))
        }
    };
    Ok(Caller {
        request: key,
        ..uploader(request, method)?
    })
}

/// The caller of a mutation that comes as a stream, which has no request id.
pub fn uploader<T>(request: &tonic::Request<T>, method: &'static str) -> Result<Caller, Status> {
    let principal = principal(request)?;
    let connection = request.extensions().get::<ConnectionHandle>();
    Ok(Caller {
        name: principal.name.clone(),
        request: None,
        method,
        origin: Origin {
            token: Some(principal.token_id),
            address: connection.map(ConnectionHandle::ip),
        },
    })
}

/// The operator behind a request that passed the layer.
pub fn principal<T>(request: &tonic::Request<T>) -> Result<&Principal, Status> {
    request
        .extensions()
        .get::<Principal>()
        .ok_or_else(unauthenticated)
}

/// Puts [`Authenticator`] in front of every service.
#[derive(Debug, Clone)]
pub struct AuthLayer(pub Authenticator);

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService {
            inner,
            authenticator: self.0.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct AuthService<S> {
    inner: S,
    authenticator: Authenticator,
}

impl<S> Service<Request<Body>> for AuthService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The service that was polled ready is the one that must be called; its clone stays for the
        // next request.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let authenticator = self.authenticator.clone();
        Box::pin(async move {
            let path = request.uri().path();
            let connection = request.extensions().get::<ConnectionHandle>();
            let connection = connection.cloned().unwrap_or_default();
            let allowed = authenticator.allow(path, request.headers(), &connection);
            let (principal, lease) = match allowed.await {
                Ok(Some(authorised)) => authorised,
                Ok(None) => return inner.call(request).await,
                Err(status) => return Ok(status.into_http()),
            };
            let goes_on = answers_go_on(path);
            tracing::Span::current().record("caller", &*principal.name);
            request.extensions_mut().insert(principal);
            request.extensions_mut().insert(lease.ended_by());
            request.extensions_mut().insert(lease.clone());
            let mut over: LeaseEnd = Box::pin(lease.ended());
            let response = tokio::select! {
                // Who revokes the token of this very call is answered.
                biased;
                response = inner.call(request) => response?,
                status = &mut over => return Ok(status.into_http()),
            };
            if !goes_on {
                return Ok(response);
            }
            Ok(response.map(|body| Body::new(Leased::new(body, over))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    use crate::{
        clock::Clock,
        store::{NewOperatorToken, Role},
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
            request: None,
            method: "CreateOperatorToken",
            origin: Origin::default(),
        };
        let make = async |text: &str| {
            let new = NewOperatorToken {
                name: format!("eve, {text}"),
                role: Role::Viewer,
                hash: Digest::of(text.as_bytes()),
                ttl: Duration::from_secs(3600),
            };
            let made = store.create_operator_token(&caller, new).await;
            made.expect("a token is made").id
        };
        let authenticator = Authenticator::new(store.clone(), false);
        let works = async |text: &str| authenticator.find(text).await.expect("asks").is_ok();
        let expiring = make("expiring").await;
        let revoked = make("revoked").await;
        assert!(works("expiring").await && works("revoked").await && !works("guessed").await);
        assert_eq!(authenticator.lock().len(), 2, "they are remembered");
        store
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
