//! `AccessService`: tokens for devices that enrol and for operators.
//!
//! A secret is in one answer and is stored only as a hash. So a repeated request makes another
//! token: the server cannot repeat the first answer, and a token whose text was lost lets nobody
//! in.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kernex_proto::{
    handshake::EnrollmentToken,
    ids::Digest,
    v1::{
        self, CreateEnrollmentTokenRequest, CreateEnrollmentTokenResponse,
        CreateOperatorTokenRequest, CreateOperatorTokenResponse, ListEnrollmentTokensRequest,
        ListEnrollmentTokensResponse, RevokeEnrollmentTokenRequest, RevokeEnrollmentTokenResponse,
        RevokeOperatorTokenRequest, RevokeOperatorTokenResponse, WhoAmIRequest, WhoAmIResponse,
        access_service_server::AccessService,
    },
};
use rand::{Rng as _, rand_core::UnwrapErr, rngs::SysRng};
use tonic::{Request, Response, Status};

use super::{
    Api,
    wire::{
        fields::{id, page, seconds},
        fitting::fitting_page,
    },
};
use crate::{
    edge::auth::{caller, principal},
    error::invalid,
    store::{NewEnrollmentToken, NewOperatorToken, Role},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Devices one enrolment token may let in.
const MAX_USES: u32 = 1_000_000;
/// Longest name on an operator token, in characters.
const MAX_NAME: usize = 100;

#[derive(Debug)]
pub struct Access(pub(super) Arc<Api>);

/// A fresh operator token and the hash that is stored of it.
#[must_use]
pub fn operator_token() -> (String, Digest) {
    let text = format!("kxo1.{}", URL_SAFE_NO_PAD.encode(secret()));
    let hash = Digest::of(text.as_bytes());
    (text, hash)
}

fn secret() -> [u8; 32] {
    let mut secret = [0; 32];
    UnwrapErr(SysRng).fill_bytes(&mut secret);
    secret
}

#[tonic::async_trait]
impl AccessService for Access {
    async fn create_enrollment_token(
        &self,
        request: Request<CreateEnrollmentTokenRequest>,
    ) -> Result<Response<CreateEnrollmentTokenResponse>, Status> {
        let caller = caller(
            &request,
            "CreateEnrollmentToken",
            &request.get_ref().request_id,
        )?;
        let wish = request.into_inner();
        let token = EnrollmentToken {
            id: self.0.store.next_token_id(),
            cluster: self.0.settings.cluster,
            ca_pin: self.0.settings.ca_pin,
            secret: secret(),
            webpki: None,
        };
        let new = NewEnrollmentToken {
            id: token.id,
            secret_hash: Digest::of(&token.secret),
            uses: uses(&wish)?,
            ttl: seconds("ttl_seconds", wish.ttl_seconds, DAY)?,
            labels: wish.labels.into_iter().collect(),
            replaces_device: (!wish.replaces_device.is_empty()).then_some(wish.replaces_device),
        };
        let row = self.0.store.create_enrollment_token(&caller, new).await?;
        Ok(Response::new(CreateEnrollmentTokenResponse {
            token: Some(row.into()),
            text: token.to_text(),
        }))
    }

    async fn list_enrollment_tokens(
        &self,
        request: Request<ListEnrollmentTokensRequest>,
    ) -> Result<Response<ListEnrollmentTokensResponse>, Status> {
        let request = request.into_inner();
        let page = page(request.page_size, request.page_token)?;
        let (tokens, next_page_token) =
            fitting_page(page, |page| self.0.store.list_enrollment_tokens(page)).await?;
        Ok(Response::new(ListEnrollmentTokensResponse {
            tokens,
            next_page_token,
        }))
    }

    async fn revoke_enrollment_token(
        &self,
        request: Request<RevokeEnrollmentTokenRequest>,
    ) -> Result<Response<RevokeEnrollmentTokenResponse>, Status> {
        let caller = caller(
            &request,
            "RevokeEnrollmentToken",
            &request.get_ref().request_id,
        )?;
        let id = id("token_id", &request.get_ref().token_id)?;
        self.0.store.revoke_enrollment_token(&caller, id).await?;
        Ok(Response::new(RevokeEnrollmentTokenResponse {}))
    }

    async fn create_operator_token(
        &self,
        request: Request<CreateOperatorTokenRequest>,
    ) -> Result<Response<CreateOperatorTokenResponse>, Status> {
        let caller = caller(
            &request,
            "CreateOperatorToken",
            &request.get_ref().request_id,
        )?;
        let wish = request.into_inner();
        check_operator(&wish.name)?;
        let role = Role::try_from(wish.role())
            .map_err(|_| invalid("role", "it has to be viewer, operator or admin"))?;
        let (text, hash) = operator_token();
        let new = NewOperatorToken {
            name: wish.name,
            role,
            hash,
            ttl: seconds("ttl_seconds", wish.ttl_seconds, DAY * 90)?,
        };
        let token = self.0.store.create_operator_token(&caller, new).await?;
        Ok(Response::new(CreateOperatorTokenResponse {
            token_id: token.id.to_string(),
            text,
            expires_at: Some(token.expires_at.to_proto()),
        }))
    }

    async fn revoke_operator_token(
        &self,
        request: Request<RevokeOperatorTokenRequest>,
    ) -> Result<Response<RevokeOperatorTokenResponse>, Status> {
        let caller = caller(
            &request,
            "RevokeOperatorToken",
            &request.get_ref().request_id,
        )?;
        let id = id("token_id", &request.get_ref().token_id)?;
        self.0.store.revoke_operator_token(&caller, id).await?;
        Ok(Response::new(RevokeOperatorTokenResponse {}))
    }

    async fn who_am_i(
        &self,
        request: Request<WhoAmIRequest>,
    ) -> Result<Response<WhoAmIResponse>, Status> {
        let principal = principal(&request)?;
        Ok(Response::new(WhoAmIResponse {
            name: principal.name.clone(),
            role: v1::Role::from(principal.role).into(),
            cluster_id: self.0.settings.cluster.to_string(),
            server_version: env!("CARGO_PKG_VERSION").into(),
        }))
    }
}

/// How many devices a token lets in. A token that replaces the key of a device works once.
fn uses(request: &v1::CreateEnrollmentTokenRequest) -> Result<u32, Status> {
    match (request.uses, request.replaces_device.is_empty()) {
        (0, _) => Ok(1),
        (2.., false) => Err(invalid("uses", "a token that replaces a device works once")),
        (uses, _) if uses > MAX_USES => Err(invalid("uses", format!("at most {MAX_USES}"))),
        (uses, _) => Ok(uses),
    }
}

/// The name is shown as the author of changes, so it has to be readable; mail addresses are
/// welcome.
fn check_operator(name: &str) -> Result<(), Status> {
    let good = !name.trim().is_empty()
        && name.chars().count() <= MAX_NAME
        && !name.chars().any(char::is_control);
    if good {
        return Ok(());
    }
    Err(invalid(
        "name",
        format!("it has to be 1 to {MAX_NAME} printable characters"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_replaces_a_device_works_once() {
        let request = |uses, replaces_device: &str| v1::CreateEnrollmentTokenRequest {
            uses,
            replaces_device: replaces_device.into(),
            ..Default::default()
        };
        assert_eq!(uses(&request(0, "")).unwrap(), 1);
        assert_eq!(uses(&request(7, "")).unwrap(), 7);
        assert_eq!(uses(&request(1, "edge-1")).unwrap(), 1);
        assert!(uses(&request(2, "edge-1")).is_err());
        assert!(uses(&request(MAX_USES + 1, "")).is_err());
    }

    #[test]
    fn operator_names_are_readable() {
        assert!(check_operator("ada@example.com").is_ok());
        for bad in [" ", "a\nb", &"x".repeat(101)] {
            assert!(check_operator(bad).is_err(), "{bad}");
        }
    }
}
