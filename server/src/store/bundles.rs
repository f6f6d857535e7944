//! Bundles by name, version and digest; their bytes are elsewhere.

use kernex_proto::{ids::Digest, v1};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, JoinType, QueryFilter, QueryOrder,
    QuerySelect, Select,
    sea_query::{Expr, ExprTrait, OnConflict, Query, TableRef},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Caller, Page, Paged, Result, Store, StoreError,
    attempts::{named, open_states, signed, unsigned},
    devices::{clean, digest, not_found},
    dynamic::giving_out,
    entity::{bundle, device_release, signature},
    requests::{audit, body_hash, remember, replayed},
    transaction::{Tx, insert_all},
};
use crate::{clock::Timestamp, crash::Act};

/// A bundle whose bytes are stored.
#[derive(Debug, Clone)]
pub struct NewBundle {
    /// Name, from the manifest or the upload.
    pub name: String,
    /// Version, from the manifest.
    pub version: String,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// How it is compressed.
    pub format: v1::BundleFormat,
    /// The manifest as it stands in the archive.
    pub manifest_json: String,
    /// Detached signatures.
    pub signatures: Vec<v1::BundleSignature>,
}

/// A bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleRow {
    /// Its row.
    pub id: Uuid,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// How it is compressed.
    pub format: v1::BundleFormat,
    /// The manifest as it stands in the archive.
    pub manifest_json: String,
    /// When it was uploaded.
    pub created_at: Timestamp,
}

impl Store {
    /// Adds a bundle. True when the same bytes were there under the same name and version; other bytes under a name and
    /// version that is taken are `AlreadyExists`.
    pub async fn insert_bundle(
        &self,
        caller: &Caller,
        new: NewBundle,
    ) -> Result<(BundleRow, bool)> {
        let new = &new;
        self.write_as(Act::CommitBundle, |tx| async move {
            let reference = format!("{}:{}", new.name, new.version);
            if let Some(row) = by_reference(&tx.db, &reference).await? {
                if row.digest == new.digest.to_string() {
                    return Ok((bundle_from(row)?, true));
                }
                return Err(StoreError::AlreadyExists {
                    kind: "bundle",
                    id: reference,
                    why: format!(", with other bytes (sha256 {})", row.digest),
                });
            }
            let row = bundle::Model {
                id: Uuid::now_v7(),
                name: new.name.clone(),
                version: new.version.clone(),
                digest: new.digest.to_string(),
                size: signed(new.size),
                format: format_name(new.format)?.to_owned(),
                // JSON writes NUL as an escape, so a raw one stands in no valid manifest; PostgreSQL would refuse it.
                manifest_json: new.manifest_json.replace('\0', ""),
                created_by: caller.name.clone(),
                created_at: tx.now.0,
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
            tx.event("bundle.uploaded", None, None, detail);
            Ok((bundle_from(row)?, false))
        })
        .await
    }

    /// A bundle by "name:version" or digest.
    pub async fn get_bundle(&self, reference: &str) -> Result<BundleRow> {
        Ok(bundle_from(find_bundle(self.reader(), reference).await?)?)
    }

    /// Bundles, newest first; only those of one name when given.
    pub async fn list_bundles(&self, name: Option<&str>, page: Page) -> Result<Paged<BundleRow>> {
        let mut query = bundle::Entity::find()
            .order_by_desc(bundle::Column::Id)
            .limit(page.limit() + 1);
        if let Some(name) = name {
            query = query.filter(bundle::Column::Name.eq(clean(name)));
        }
        if let Some(after) = page.after_id("bundles")? {
            query = query.filter(bundle::Column::Id.lt(after));
        }
        let rows = query.all(self.reader()).await?;
        let paged = Paged::from_surplus(rows, page.limit(), "bundles", |row| {
            row.id.as_bytes().to_vec()
        });
        Ok(Paged {
            items: paged
                .items
                .into_iter()
                .map(bundle_from)
                .collect::<Result<_, _>>()?,
            next: paged.next,
        })
    }

    /// Deletes a bundle, unless an open target or a device needs it. Its bytes may go when
    /// [`digest_in_use`](Self::digest_in_use) says no.
    pub async fn delete_bundle(&self, caller: &Caller, reference: &str) -> Result<BundleRow> {
        let body = body_hash(&reference);
        self.write(|tx| async move {
            if let Some(row) = replayed::<StoredBundle>(&tx, caller, body).await? {
                return Ok(bundle_from(row.into())?);
            }
            let row = find_bundle(&tx.db, reference).await?;
            if let Some(why) = needed_by(&tx, &row).await? {
                return Err(StoreError::InUse {
                    kind: "bundle",
                    id: reference.to_owned(),
                    why,
                });
            }
            bundle::Entity::delete_by_id(row.id).exec(&tx.db).await?;
            remember(&tx, caller, body, &StoredBundle::from(row.clone())).await?;
            let detail =
                json!({ "bundle": format!("{}:{}", row.name, row.version), "digest": row.digest });
            audit(&tx, caller, reference, detail.clone()).await?;
            tx.event("bundle.deleted", None, None, detail);
            Ok(bundle_from(row)?)
        })
        .await
    }

    /// Whether any bundle has these bytes; the same bytes may stand under two names.
    pub async fn digest_in_use(&self, digest: Digest) -> Result<bool> {
        let any = bundle::Entity::find()
            .filter(bundle::Column::Digest.eq(digest.to_string()))
            .one(self.reader())
            .await?;
        Ok(any.is_some())
    }
}

/// A bundle as the answer to a repeated deletion.
#[derive(serde::Serialize, serde::Deserialize)]
struct StoredBundle {
    id: Uuid,
    name: String,
    version: String,
    digest: String,
    size: i64,
    format: String,
    created_at: i64,
}

impl From<bundle::Model> for StoredBundle {
    fn from(row: bundle::Model) -> Self {
        Self {
            id: row.id,
            name: row.name,
            version: row.version,
            digest: row.digest,
            size: row.size,
            format: row.format,
            created_at: row.created_at,
        }
    }
}

impl From<StoredBundle> for bundle::Model {
    fn from(row: StoredBundle) -> Self {
        Self {
            id: row.id,
            name: row.name,
            version: row.version,
            digest: row.digest,
            size: row.size,
            format: row.format,
            manifest_json: String::new(),
            created_by: String::new(),
            created_at: row.created_at,
        }
    }
}

/// Who needs a bundle. The same bytes under another name serve just as well.
async fn needed_by(tx: &Tx, row: &bundle::Model) -> Result<Option<String>> {
    let query = Query::select()
        .column(("a", "deployment_id"))
        .from_as("attempts", "a")
        .inner_join(
            TableRef::from("targets").alias("t"),
            Expr::col(("t", "id")).equals(("a", "target_id")),
        )
        .and_where(Expr::col(("t", "digest")).eq(row.digest.as_str()))
        .and_where(Expr::col(("t", "bundle_name")).eq(row.name.as_str()))
        .and_where(Expr::col(("t", "bundle_version")).eq(row.version.as_str()))
        .and_where(Expr::col(("a", "state")).is_in(open_states()))
        .limit(1)
        .to_owned();
    if let Some(open) = tx.db.query_one(&query).await? {
        let deployment: Uuid = open.try_get("", "deployment_id")?;
        return Ok(Some(format!(
            "deployment {deployment} has not finished with it"
        )));
    }
    if let Some(deployment) = giving_out(&tx.db, row).await? {
        return Ok(Some(format!(
            "deployment {deployment} gives it to devices that come to match it"
        )));
    }
    let runs = device_release::Entity::find()
        .filter(device_release::Column::Name.eq(&row.name))
        .filter(
            device_release::Column::Digest
                .eq(&row.digest)
                .or(device_release::Column::PreviousDigest.eq(&row.digest)),
        )
        .one(&tx.db)
        .await?;
    Ok(runs.map(|release| format!("device {} runs it or may go back to it", release.device_id)))
}

/// A bundle's row by "name:version" or digest; of equal bytes the oldest.
pub(crate) async fn find_bundle<C: ConnectionTrait>(
    db: &C,
    reference: &str,
) -> Result<bundle::Model> {
    by_reference(db, reference)
        .await?
        .ok_or_else(|| not_found("bundle", reference))
}

/// A bundle with its detached signatures, by key.
pub(crate) async fn find_signed_bundle<C: ConnectionTrait>(
    db: &C,
    reference: &str,
) -> Result<(bundle::Model, Vec<signature::Model>)> {
    let signatures = bundle::Entity::belongs_to(signature::Entity)
        .from(bundle::Column::Id)
        .to(signature::Column::BundleId);
    let rows = referred(reference)
        .join(JoinType::LeftJoin, signatures.into())
        .order_by_asc(signature::Column::KeyId)
        .select_also(signature::Entity)
        .all(db)
        .await?;
    let (bundles, signatures): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let bundle = bundles.into_iter().next();
    let bundle = bundle.ok_or_else(|| not_found("bundle", reference))?;
    // The same bytes may have other names, too.
    let theirs = |signature: &signature::Model| signature.bundle_id == bundle.id;
    let signatures = signatures.into_iter().flatten().filter(theirs).collect();
    Ok((bundle, signatures))
}

async fn by_reference<C: ConnectionTrait>(
    db: &C,
    reference: &str,
) -> Result<Option<bundle::Model>> {
    Ok(referred(reference).one(db).await?)
}

fn referred(reference: &str) -> Select<bundle::Entity> {
    let query = bundle::Entity::find().order_by_asc(bundle::Column::Id);
    match reference.split_once(':') {
        Some((name, version)) => query
            .filter(bundle::Column::Name.eq(clean(name)))
            .filter(bundle::Column::Version.eq(clean(version))),
        None => query.filter(bundle::Column::Digest.eq(clean(reference))),
    }
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

pub(crate) fn parse_format(text: &str) -> Option<v1::BundleFormat> {
    match text {
        "tar.gz" => Some(v1::BundleFormat::TarGz),
        "tar.zst" => Some(v1::BundleFormat::TarZst),
        _ => None,
    }
}

pub(crate) fn bundle_from(row: bundle::Model) -> Result<BundleRow, DbErr> {
    Ok(BundleRow {
        id: row.id,
        digest: digest(&row.digest)?,
        size: unsigned(row.size),
        format: named("format", &row.format, parse_format)?,
        name: row.name,
        version: row.version,
        manifest_json: row.manifest_json,
        created_at: Timestamp(row.created_at),
    })
}
