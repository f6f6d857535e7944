//! Bundles.

use kernex_proto::v1;

use crate::store::BundleRow;

impl From<BundleRow> for v1::Bundle {
    fn from(bundle: BundleRow) -> Self {
        Self {
            name: bundle.name,
            version: bundle.version,
            digest: bundle.digest.to_string(),
            size_bytes: bundle.size,
            format: bundle.format.into(),
            manifest_json: bundle.manifest_json,
            created_at: Some(bundle.created_at.to_proto()),
        }
    }
}
