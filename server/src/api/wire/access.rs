//! Roles of operators, and enrolment tokens without their secrets.

use kernex_proto::v1;

use crate::{
    store::{EnrollmentTokenRow, Role},
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
