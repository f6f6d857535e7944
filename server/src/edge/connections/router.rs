//! Which service a call goes to.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{body::Body, server::NamedService, service::Routes};
use tower::Service;

/// Sends calls of the agents' service straight there, by name, and all others through tonic's
/// routes. A stream keeps the services that it came through in memory. Sessions live long, so they
/// come through few.
#[derive(Debug, Clone)]
pub(crate) struct Router<A> {
    agents: A,
    others: Routes,
}

impl<A> Router<A> {
    pub(crate) fn new(agents: A, others: Routes) -> Self {
        Self {
            agents,
            others: others.prepare(),
        }
    }
}

impl<A> Service<Request<Body>> for Router<A>
where
    A: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
    A::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self.agents.poll_ready(cx) {
            Poll::Ready(Ok(())) => Service::<Request<Body>>::poll_ready(&mut self.others, cx),
            other => other,
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_of(A::NAME, request.uri().path()) {
            Box::pin(self.agents.call(request))
        } else {
            Box::pin(self.others.call(request))
        }
    }
}

/// Whether a path is a method of the service.
fn is_of(service: &str, path: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(service))
        .is_some_and(|method| method.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_service_and_a_method() {
        assert!(is_of("a.B", "/a.B/Call"));
        assert!(is_of("a.B", "/a.B/"));
        assert!(!is_of("a.B", "/a.B"));
        assert!(!is_of("a.B", "/a.BC/Call"));
        assert!(!is_of("a.B", "a.B/Call"));
        assert!(!is_of("a.B", "/x.B/Call"));
    }
}
