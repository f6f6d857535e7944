//! `AccessService`: tokens for devices that enrol and for operators.
//!
//! A secret is in one answer, and the store keeps only its hash. So a repeated request makes
//! another token: the server cannot repeat the first answer, and a token whose text was lost admits
//! nobody.

use std::{sync::Arc, time::Duration};

use kernex_proto::{
    handshake::EnrollmentToken,
    ids::Digest,
    operator_token,
    v1::{
        self, CreateEnrollmentTokenRequest, CreateEnrollmentTokenResponse,
        CreateOperatorTokenRequest, CreateOperatorTokenResponse, ListEnrollmentTokensRequest,
        ListEnrollmentTokensResponse, ListOperatorTokensRequest, ListOperatorTokensResponse,
        RevokeEnrollmentTokenRequest, RevokeEnrollmentTokenResponse, RevokeOperatorTokenRequest,
        RevokeOperatorTokenResponse, WhoAmIRequest, WhoAmIResponse,
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
/// Beginnings of names that the server uses for itself and for enrolment tokens.
const RESERVED: [&str; 2] = ["kernex", "token"];

#[derive(Debug)]
pub struct Access(pub(super) Arc<Api>);

/// The text of a new operator token, and its hash for the store.
#[must_use]
pub fn operator_token() -> (String, Digest) {
    let text = operator_token::generate(|bytes| UnwrapErr(SysRng).fill_bytes(bytes));
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
        let view = self.0.view(&request)?;
        let request = request.into_inner();
        let page = page(request.page_size, request.page_token)?;
        let (tokens, next_page_token) =
            fitting_page(page, |page| view.list_enrollment_tokens(page)).await?;
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

    async fn list_operator_tokens(
        &self,
        request: Request<ListOperatorTokensRequest>,
    ) -> Result<Response<ListOperatorTokensResponse>, Status> {
        let view = self.0.view(&request)?;
        let request = request.into_inner();
        let page = page(request.page_size, request.page_token)?;
        self.0.authenticator.write_sightings().await?;
        let (tokens, next_page_token) =
            fitting_page(page, |page| view.list_operator_tokens(page)).await?;
        Ok(Response::new(ListOperatorTokensResponse {
            tokens,
            next_page_token,
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
        let view = self.0.view(&request)?;
        let id = view.operator_token_id(&request.get_ref().token_id).await?;
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
            token_id: principal.token_id.to_string(),
            expires_at: Some(principal.expires_at.to_proto()),
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

/// The name is shown as the author of changes. So it has to be readable and none of the server's
/// own. A mail address is fine.
fn check_operator(name: &str) -> Result<(), Status> {
    let readable = !name.is_empty()
        && name.trim() == name
        && name.chars().count() <= MAX_NAME
        && !name.chars().any(char::is_control);
    if !readable {
        return Err(invalid(
            "name",
            format!("it has to be 1 to {MAX_NAME} printable characters, without spaces around"),
        ));
    }
    let lower = name.to_lowercase();
    match RESERVED.iter().find(|word| lower.starts_with(**word)) {
        None => Ok(()),
        Some(word) => Err(invalid(
            "name",
            format!("names that begin with `{word}` are the server's own; choose another"),
        )),
    }
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
        for good in ["ada@example.com", "ci kernex", "Ada Lovelace"] {
            assert!(check_operator(good).is_ok(), "{good}");
        }
        let long = "x".repeat(101);
        for bad in ["", " ", " ada", "ada ", "a\nb", long.as_str()] {
            assert!(check_operator(bad).is_err(), "{bad}");
        }
        for reserved in ["kernex", "kernex-server", "Kernex", "token 0193"] {
            assert!(check_operator(reserved).is_err(), "{reserved}");
        }
    }
}
