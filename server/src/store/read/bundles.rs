//! Bundles by name, version and digest. Their bytes are in `blobs/`.

use kernex_proto::{ids::Digest, v1};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, JoinType, QueryFilter, QueryOrder,
    QuerySelect, Select,
};

use crate::{
    clock::Timestamp,
    domain::bundle_reference::BundleReference,
    store::{
        db::{
            error::{Result, StoreError, not_found},
            page::{Page, Paged},
            values::{clean, digest, parse_name, unsigned},
        },
        entity::{bundle, signature, stored::BundleId},
        read::scope::{Scope, View},
    },
};

/// Rows read for the first digits of a digest; the same bytes rarely have more names than that.
const MOST_ALIKE: u64 = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleRow {
    /// Its row.
    pub id: BundleId,
    pub name: String,
    pub version: String,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    pub format: v1::BundleFormat,
    /// The manifest as it stands in the archive.
    pub manifest_json: String,
    /// When it was uploaded.
    pub created_at: Timestamp,
}

impl View {
    /// A bundle by "name:version", by its digest or the first 12 digits of it, or the newest of a
    /// name.
    pub async fn get_bundle(&self, reference: &str) -> Result<BundleRow> {
        let row = find_bundle(self.reader(), self.scope, reference).await?;
        Ok(bundle_from(row)?)
    }

    /// Bundles, newest first; only those of one name when given.
    pub async fn list_bundles(&self, name: Option<&str>, page: Page) -> Result<Paged<BundleRow>> {
        let mut query = self
            .rows::<bundle::Entity>()
            .order_by_desc(bundle::Column::Id)
            .limit(page.limit() + 1);
        if let Some(name) = name {
            query = query.filter(bundle::Column::Name.eq(clean(name)));
        }
        if let Some(after) = page.after_id("bundles")? {
            query = query.filter(bundle::Column::Id.lt(after));
        }
        let rows = query.all(self.reader()).await?;
        let paged = Paged::from_surplus(rows, page.limit(), "bundles", |row| row.id.bytes());
        Ok(Paged {
            items: paged
                .items
                .into_iter()
                .map(bundle_from)
                .collect::<Result<_, _>>()?,
            next: paged.next,
        })
    }

    /// Whether any bundle has these bytes; the same bytes may stand under two names.
    pub async fn digest_in_use(&self, digest: Digest) -> Result<bool> {
        let any = self
            .rows::<bundle::Entity>()
            .filter(bundle::Column::Digest.eq(digest.to_string()))
            .one(self.reader())
            .await?;
        Ok(any.is_some())
    }
}

/// A bundle by its reference, see [`View::get_bundle`]; the oldest of those with the same bytes.
pub(crate) async fn find_bundle<C: ConnectionTrait>(
    db: &C,
    scope: Scope,
    reference: &str,
) -> Result<bundle::Model> {
    by_reference(db, scope, reference)
        .await?
        .ok_or_else(|| not_found("bundle", reference))
}

/// A bundle with its detached signatures, by key.
pub(crate) async fn find_signed_bundle<C: ConnectionTrait>(
    db: &C,
    scope: Scope,
    reference: &str,
) -> Result<(bundle::Model, Vec<signature::Model>)> {
    let signatures = bundle::Entity::belongs_to(signature::Entity)
        .from(bundle::Column::Id)
        .to(signature::Column::BundleId);
    let rows = referred(scope, reference)
        .join(JoinType::LeftJoin, signatures.into())
        .order_by_asc(signature::Column::KeyId)
        .select_also(signature::Entity)
        .all(db)
        .await?;
    let (bundles, signatures): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    if BundleReference::parse(reference).is_short() {
        same_bytes(reference, &bundles)?;
    }
    let bundle = bundles.into_iter().next();
    let bundle = bundle.ok_or_else(|| not_found("bundle", reference))?;
    // The same bytes may have other names, too.
    let theirs = |signature: &signature::Model| signature.bundle_id == bundle.id;
    let signatures = signatures.into_iter().flatten().filter(theirs).collect();
    Ok((bundle, signatures))
}

pub(crate) async fn by_reference<C: ConnectionTrait>(
    db: &C,
    scope: Scope,
    reference: &str,
) -> Result<Option<bundle::Model>> {
    if !BundleReference::parse(reference).is_short() {
        return Ok(referred(scope, reference).one(db).await?);
    }
    let rows = referred(scope, reference).limit(MOST_ALIKE).all(db).await?;
    same_bytes(reference, &rows)?;
    Ok(rows.into_iter().next())
}

/// Refuses the first digits of a digest that several bundles with other bytes share.
fn same_bytes(reference: &str, rows: &[bundle::Model]) -> Result<()> {
    if rows.windows(2).all(|pair| pair[0].digest == pair[1].digest) {
        return Ok(());
    }
    Err(StoreError::Invalid {
        field: "bundle",
        why: format!("the digests of several bundles begin with `{reference}`; write more of it"),
    })
}

/// Bundles that a reference means, the best first. A version names one; a digest means the oldest
/// with these bytes, a name the newest.
fn referred(scope: Scope, reference: &str) -> Select<bundle::Entity> {
    let query = scope.rows::<bundle::Entity>();
    match BundleReference::parse(reference) {
        BundleReference::Version(name, version) => query
            .filter(bundle::Column::Name.eq(clean(&name)))
            .filter(bundle::Column::Version.eq(clean(&version)))
            .order_by_asc(bundle::Column::Id),
        BundleReference::Digest(digits) => query
            .filter(bundle::Column::Digest.starts_with(digits))
            .order_by_asc(bundle::Column::Digest)
            .order_by_asc(bundle::Column::Id),
        BundleReference::Name(name) => query
            .filter(bundle::Column::Name.eq(clean(&name)))
            .order_by_desc(bundle::Column::Id),
    }
}

/// A bundle as it is shown: "name:version", or only the name where versions differ.
pub(crate) fn shown_bundle(name: String, version: &str) -> String {
    match version {
        "" => name,
        version => format!("{name}:{version}"),
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
        id: row.id.0,
        digest: digest(&row.digest)?,
        size: unsigned(row.size),
        format: parse_name("format", &row.format, parse_format)?,
        name: row.name,
        version: row.version,
        manifest_json: row.manifest_json,
        created_at: Timestamp(row.created_at),
    })
}
