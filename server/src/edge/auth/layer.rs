//! Asks the [`Authenticator`] before a service is called, and ends a call whose token is revoked or
//! expires meanwhile.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::{
    Authenticator,
    lease::{LeaseEnd, Leased},
    policy::answers_go_on,
};
use crate::edge::connections::ConnectionHandle;

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
        // The service that was polled ready has to be called. Its clone stays for the next request.
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
                // First, so that a caller who revokes its own token is answered.
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
