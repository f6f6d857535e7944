//! A bundle.

use sea_orm::entity::prelude::*;

use crate::store::entity::stored::{BundleId, Stored};

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "bundles")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Stored<BundleId>,
    pub name: String,
    pub version: String,
    /// SHA-256 of the bytes in lower-case hex. Two names may have the same bytes.
    pub digest: String,
    /// In bytes.
    pub size: i64,
    /// `tar.gz` or `tar.zst`.
    pub format: String,
    /// The manifest as it stands in the archive.
    pub manifest_json: String,
    /// Name on the token of who uploaded it.
    pub created_by: String,
    pub created_at: i64,
    /// Bytes of its files once unpacked; 0 when it was uploaded before that was counted.
    pub unpacked_bytes: i64,
    /// Files, folders and links; 0 likewise.
    pub entries: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
