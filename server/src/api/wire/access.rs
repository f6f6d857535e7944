//! Roles of operators, and tokens without their secrets.

use kernex_proto::v1;

use crate::{
    clock::Timestamp,
    store::{EnrollmentTokenRow, OperatorTokenRow, Role},
    wire::same_words,
};

same_words!(Role, v1::Role: Viewer, Operator, Admin);

impl From<EnrollmentTokenRow> for v1::EnrollmentToken {
    fn from(token: EnrollmentTokenRow) -> Self {
        Self {
            id: token.id.to_string(),
            uses_left: token.uses_left,
            uses_total: token.uses_total,
            expires_at: Some(token.expires_at.to_proto()),
            labels: token.labels.into_iter().collect(),
            replaces_device: token.replaces_device.unwrap_or_default(),
            created_by: token.created_by,
            created_at: Some(token.created_at.to_proto()),
            revoked: token.revoked,
        }
    }
}

impl From<OperatorTokenRow> for v1::OperatorToken {
    fn from(token: OperatorTokenRow) -> Self {
        Self {
            id: token.id.to_string(),
            name: token.name,
            role: v1::Role::from(token.role).into(),
            created_by: token.created_by,
            created_at: Some(token.created_at.to_proto()),
            expires_at: Some(token.expires_at.to_proto()),
            revoked_at: token.revoked_at.map(Timestamp::to_proto),
            last_used_at: token.last_used_at.map(Timestamp::to_proto),
            last_used_from: token.last_used_from,
        }
    }
}
