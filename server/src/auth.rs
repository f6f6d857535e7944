//! Who may call what: one policy per RPC, enforced in one place before any handler runs.
//!
//! A path without a policy does not exist: it is answered `UNIMPLEMENTED` here, and a test walks the descriptors so that
//! no RPC of ours can be forgotten.

mod policy;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use kernex_proto::{error::Reason, ids::Digest};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use uuid::Uuid;

pub use self::policy::{Policy, policy};
use crate::{
    error::{invalid, status, unauthenticated},
    store::{Caller, Store, StoreError, access::Principal},
};

/// How long a token that was looked up is believed. Revocation on this replica takes effect at once, elsewhere after this.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// Tokens remembered; operators and services of one control plane are far fewer.
const CACHE_SIZE: usize = 1024;

/// Finds out who a token belongs to.
#[derive(Clone)]
pub struct Authenticator {
    store: Store,
    cache: Arc<Mutex<HashMap<Digest, (Principal, Instant)>>>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Looks tokens up in `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            cache: Arc::default(),
        }
    }

    /// Forgets everything that was looked up; called when a token is revoked.
    pub fn forget_all(&self) {
        self.cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    async fn find(&self, token: &str) -> Result<Option<Principal>, StoreError> {
        let hash = Digest::of(token.as_bytes());
        let now = Instant::now();
        if let Some((principal, until)) = self
            .cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&hash)
            && now < *until
        {
            return Ok(Some(principal.clone()));
        }
        let found = self.store.find_principal(hash).await?;
        if let Some(principal) = &found {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if cache.len() >= CACHE_SIZE {
                cache.retain(|_, (_, until)| now < *until);
            }
            if cache.len() < CACHE_SIZE {
                cache.insert(hash, (principal.clone(), now + CACHE_TTL));
            }
        }
        Ok(found)
    }

    async fn allow(&self, path: &str, headers: &HeaderMap) -> Result<Option<Principal>, Status> {
        let Some(policy) = policy(path) else {
            return Err(Status::unimplemented("no such method"));
        };
        let role = match policy {
            Policy::Open | Policy::Agent => return Ok(None),
            Policy::Operator(role) => role,
        };
        let token = bearer(headers).ok_or_else(|| {
            status(
                Code::Unauthenticated,
                Reason::Unauthenticated,
                "an operator token is needed in the `authorization: Bearer` metadata",
            )
        })?;
        let principal = self.find(token).await?.ok_or_else(unauthenticated)?;
        if principal.role < role {
            return Err(status(
                Code::PermissionDenied,
                Reason::NotAllowed,
                format!(
                    "this needs the role {}, and `{}` has the role {}",
                    role, principal.name, principal.role
                ),
            ));
        }
        Ok(Some(principal))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The caller of a mutation, for audit and for requests that are safe to repeat.
pub fn caller<T>(
    request: &tonic::Request<T>,
    method: &'static str,
    request_id: &str,
) -> Result<Caller, Status> {
    let principal = principal(request)?;
    let request_id = match request_id {
        "" => None,
        text => Some(
            Uuid::try_parse(text)
                .map_err(|_| invalid("request_id", "it has to be a UUID, or empty"))?,
        ),
    };
    Ok(Caller {
        name: principal.name.clone(),
        request_id,
        method,
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

/// The services behind [`AuthLayer`].
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
        // The service that was polled ready is the one that must be called; its clone stays for the next request.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let authenticator = self.authenticator.clone();
        Box::pin(async move {
            let path = request.uri().path();
            match authenticator.allow(path, request.headers()).await {
                Ok(principal) => {
                    if let Some(principal) = principal {
                        request.extensions_mut().insert(principal);
                    }
                    inner.call(request).await
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
