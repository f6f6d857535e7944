//! What every text of an identifier may turn out to be.

/// A string that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a valid {kind}")]
pub struct InvalidId {
    /// What was expected.
    pub kind: &'static str,
    /// What came.
    pub value: String,
}
