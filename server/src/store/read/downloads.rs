//! Who may download what: the holder of a live session's token, for as long as an attempt of its
//! device is open.

use kernex_proto::ids::{DeviceId, Digest};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, ExprTrait, Query, TableRef},
};

use crate::store::{
    db::{
        error::{Result, StoreError},
        store::Store,
    },
    entity::{attempt, bundle, session, stored::Stored, target},
    read::{
        attempts::opened_states,
        bundles::{BundleRow, bundle_from},
        joined::is_of_target,
    },
};

/// Why a device may not download.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// No live session with that token.
    #[error("no live session has this token")]
    Unauthenticated,
    /// It has no open attempt for the bundle.
    #[error("the device has no open attempt for this bundle")]
    NotATarget,
    /// The bundle is no longer there.
    #[error("the bundle is gone")]
    Gone,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Whether the holder of a session token may download a bundle now.
    pub async fn authorise_download(
        &self,
        device: DeviceId,
        token_hash: Digest,
        digest: Digest,
    ) -> Result<BundleRow, DownloadError> {
        let session = session::Entity::find_by_id(Stored(device))
            .one(self.reader())
            .await
            .map_err(StoreError::from)?;
        if session.is_none_or(|session| session.token_hash != token_hash.to_string()) {
            return Err(DownloadError::Unauthenticated);
        }
        if !self.is_target(device, digest).await? {
            return Err(DownloadError::NotATarget);
        }
        let row = bundle::Entity::find()
            .filter(bundle::Column::Digest.eq(digest.to_string()))
            .one(self.reader())
            .await
            .map_err(StoreError::from)?;
        Ok(bundle_from(row.ok_or(DownloadError::Gone)?).map_err(StoreError::from)?)
    }

    async fn is_target(&self, device: DeviceId, digest: Digest) -> Result<bool> {
        let query = Query::select()
            .column(("a", attempt::Column::Number))
            .from_as(attempt::Entity, "a")
            .inner_join(TableRef::from(target::Entity).alias("t"), is_of_target())
            .and_where(Expr::col(("a", attempt::Column::DeviceId)).eq(device.0))
            .and_where(Expr::col(("a", attempt::Column::Unresolved)).eq(true))
            .and_where(Expr::col(("a", attempt::Column::State)).is_in(opened_states()))
            .and_where(Expr::col(("t", target::Column::Digest)).eq(digest.to_string()))
            .limit(1)
            .to_owned();
        Ok(self.reader().query_one(&query).await?.is_some())
    }
}
