//! Adds a bundle whose bytes are stored.

use kernex_proto::{ids::Digest, v1};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, OnConflict},
};
use serde_json::json;

use crate::{
    crash::Act,
    store::{
        db::{
            error::{Result, StoreError},
            new_event::Subject,
            sizes::insert_all,
            store::OperatorStore,
            values::{clean, signed},
        },
        entity::{
            bundle, signature,
            stored::{BundleId, Stored},
        },
        read::bundles::{BundleRow, bundle_from, by_reference},
        write::{audit::audit, replay::Caller},
    },
};

/// A bundle whose bytes are stored.
#[derive(Debug, Clone)]
pub struct NewBundle {
    /// From the manifest or the upload.
    pub name: String,
    /// From the manifest.
    pub version: String,
    /// SHA-256 of the archive.
    pub digest: Digest,
    /// Size of the archive in bytes.
    pub size: u64,
    pub format: v1::BundleFormat,
    /// The manifest as it stands in the archive.
    pub manifest_json: String,
    /// Bytes of its files once unpacked.
    pub unpacked_bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
    /// Detached signatures that came with it.
    pub signatures: Vec<v1::BundleSignature>,
}

impl OperatorStore {
    /// Adds a bundle. True when the same bytes were there under this name and version. Other bytes
    /// there are `AlreadyExists`.
    pub async fn insert_bundle(
        &self,
        caller: &Caller,
        new: NewBundle,
    ) -> Result<(BundleRow, bool)> {
        let db = &self.0;
        let new = &new;
        db.write_as(Act::CommitBundle, |tx| async move {
            let reference = format!("{}:{}", new.name, new.version);
            if let Some(row) = by_reference(&tx.db, caller.scope, &reference).await? {
                if row.digest == new.digest.to_string() {
                    if row.entries == 0 {
                        note_size(&tx.db, &row, new).await?;
                    }
                    return Ok((bundle_from(row)?, true));
                }
                return Err(StoreError::AlreadyExists {
                    kind: "bundle",
                    id: reference,
                    why: format!(", with other bytes (sha256 {})", row.digest),
                });
            }
            let row = bundle::Model {
                id: Stored(BundleId(tx.new_id())),
                name: new.name.clone(),
                version: new.version.clone(),
                digest: new.digest.to_string(),
                size: signed(new.size),
                format: format_name(new.format)?.to_owned(),
                // JSON writes NUL as an escape, so no valid manifest has a raw one. PostgreSQL
                // would refuse it.
                manifest_json: new.manifest_json.replace('\0', ""),
                created_by: caller.name.clone(),
                created_at: tx.now.0,
                unpacked_bytes: signed(new.unpacked_bytes),
                entries: signed(new.entries),
            };
            insert_all::<bundle::Entity>(&tx.db, vec![row.clone()], None).await?;
            let signatures = new.signatures.iter().map(|signature| signature::Model {
                bundle_id: row.id,
                key_id: clean(&signature.key_id),
                algorithm: clean(&signature.algorithm),
                signature: signature.signature.clone().into(),
            });
            let first_stays =
                OnConflict::columns([signature::Column::BundleId, signature::Column::KeyId])
                    .do_nothing()
                    .to_owned();
            insert_all::<signature::Entity>(&tx.db, signatures.collect(), Some(first_stays))
                .await?;
            let detail = json!({ "bundle": reference, "digest": row.digest });
            audit(&tx, caller, &reference, detail.clone()).await?;
            tx.event("bundle.uploaded", Subject::Nothing, caller.made(detail));
            Ok((bundle_from(row)?, false))
        })
        .await
    }
}

/// Notes how large a bundle is once unpacked. That was not counted when it came first.
async fn note_size<C: ConnectionTrait>(db: &C, row: &bundle::Model, new: &NewBundle) -> Result<()> {
    bundle::Entity::update_many()
        .col_expr(
            bundle::Column::UnpackedBytes,
            Expr::value(signed(new.unpacked_bytes)),
        )
        .col_expr(bundle::Column::Entries, Expr::value(signed(new.entries)))
        .filter(bundle::Column::Id.eq(row.id))
        .exec(db)
        .await?;
    Ok(())
}

fn format_name(format: v1::BundleFormat) -> Result<&'static str> {
    match format {
        v1::BundleFormat::TarGz => Ok("tar.gz"),
        v1::BundleFormat::TarZst => Ok("tar.zst"),
        v1::BundleFormat::Unspecified => Err(StoreError::Invalid {
            field: "format",
            why: "the bundle's format is not known".into(),
        }),
    }
}
