//! Who makes a request, as the layer found out and as the store writes it into the audit.

use tonic::Status;
use uuid::Uuid;

use crate::{
    edge::connections::ConnectionHandle,
    error::{invalid, unauthenticated},
    store::{Caller, Origin, Principal, RequestKey},
};

/// The caller of a change. The audit names it, and repeated requests are compared for it.
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

/// The caller of a change that comes as a stream. It has no request id.
pub fn uploader<T>(request: &tonic::Request<T>, method: &'static str) -> Result<Caller, Status> {
    let principal = principal(request)?;
    let connection = request.extensions().get::<ConnectionHandle>();
    Ok(Caller {
        name: principal.name.clone(),
        scope: principal.scope(),
        request: None,
        method,
        origin: Origin {
            token: Some(principal.token_id),
            address: connection.map(ConnectionHandle::ip),
        },
    })
}

/// The operator who makes a request that has passed the layer.
pub fn principal<T>(request: &tonic::Request<T>) -> Result<&Principal, Status> {
    request
        .extensions()
        .get::<Principal>()
        .ok_or_else(unauthenticated)
}
