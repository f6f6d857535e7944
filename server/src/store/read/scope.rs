//! What a caller may see: the seam between rows and those who ask for them.
//!
//! Every question of an operator hangs on a [`View`], and a view is made with a [`Scope`]. So
//! nobody can ask without saying for whom, and a question that forgets it does not compile:
//!
//! ```text
//! Principal::scope -> OperatorStore::view(scope) -> View::list_devices(..)
//!                  -> Caller { scope, .. }       -> find_device(db, scope, ..)
//! ```
//!
//! There are no tenants yet, so there is one scope. With tenants it gets another variant, and the
//! compiler shows the two places that have to leave rows out: [`Scope::rows`], and
//! [`EventRow::is_in`](crate::store::EventRow::is_in) for events that go to many watchers at once.

use sea_orm::{DatabaseConnection, EntityTrait, Select};
use tokio::sync::watch;

use crate::store::db::store::{OperatorStore, Store};

/// What somebody may see of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every row: what the server itself sees, and today whoever has an operator token.
    Everything,
}

impl Scope {
    /// Begins a statement about a table. Rows that are out of sight are left out here.
    ///
    /// Statements about targets and attempts join tables and are written without it. They are about
    /// a device or a deployment that was found with it.
    pub(crate) fn rows<E: EntityTrait>(self) -> Select<E> {
        match self {
            Self::Everything => E::find(),
        }
    }
}

/// The store as somebody sees it, over the connections for operators.
#[derive(Debug, Clone)]
pub struct View {
    pub(in crate::store) store: Store,
    pub(in crate::store) scope: Scope,
}

impl OperatorStore {
    /// The store as it looks from a scope.
    #[must_use]
    pub fn view(&self, scope: Scope) -> View {
        View {
            store: self.0.clone(),
            scope,
        }
    }
}

impl View {
    /// What is seen.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    /// Changes after each commit that changed targets, devices or events, whoever may see them.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.store.changes()
    }

    /// See [`Scope::rows`].
    pub(in crate::store) fn rows<E: EntityTrait>(&self) -> Select<E> {
        self.scope.rows()
    }

    pub(in crate::store) fn reader(&self) -> &DatabaseConnection {
        self.store.reader()
    }
}
