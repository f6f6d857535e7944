//! Entries of the audit, and which of them are asked for.

use kernex_proto::v1;
use prost_types::Timestamp as WireTime;
use tonic::Status;

use super::fields::id;
use crate::{
    clock::Timestamp,
    error::invalid,
    store::{AuditEntry, AuditFilter, AuditResult},
    wire::same_words,
};

same_words!(AuditResult, v1::AuditResult: Ok, Denied, Unauthenticated);

impl From<AuditEntry> for v1::AuditEntry {
    fn from(entry: AuditEntry) -> Self {
        let token = entry.token.map(|id| id.to_string());
        let request = entry.request_id.map(|id| id.to_string());
        Self {
            id: entry.id.to_string(),
            at: Some(entry.at.to_proto()),
            principal: entry.principal,
            token_id: token.unwrap_or_default(),
            address: entry.address,
            method: entry.method,
            subject: entry.subject,
            result: v1::AuditResult::from(entry.result).into(),
            count: entry.count,
            request_id: request.unwrap_or_default(),
            detail_json: entry.detail_json,
            subject_name: entry.subject_name.unwrap_or_default(),
        }
    }
}

/// Which entries a request asks for.
pub(in crate::api) fn filter(request: &v1::ListAuditEntriesRequest) -> Result<AuditFilter, Status> {
    let result = match v1::AuditResult::try_from(request.result) {
        Ok(v1::AuditResult::Unspecified) => None,
        Ok(result) => AuditResult::try_from(result).ok(),
        Err(_) => return Err(invalid("result", "this version has no such result")),
    };
    let moment = |field, wire: &Option<WireTime>| match wire {
        None => Ok(None),
        Some(time) => Timestamp::from_proto(time)
            .map(Some)
            .ok_or_else(|| invalid(field, "it is out of any calendar")),
    };
    let token = match request.token_id.as_str() {
        "" => None,
        text => Some(id("token_id", text)?),
    };
    Ok(AuditFilter {
        principal: request.principal.clone(),
        method: request.method.clone(),
        subject: request.subject.clone(),
        token,
        address: request.address.clone(),
        result,
        since: moment("since", &request.since)?,
        until: moment("until", &request.until)?,
    })
}
