//! Ids of the contract as columns. The contract knows no database, so a column wraps its type.

use kernex_proto::ids::{ClusterId, DeploymentId, DeviceId, JournalId, TargetId, TokenId};
use sea_orm::{
    ActiveValue, ColIdx, DbErr, IntoActiveValue, QueryResult, TryFromU64, TryGetError, TryGetable,
    Value,
    sea_query::{ArrayType, ColumnType, Nullable, ValueType, ValueTypeErr},
};
use uuid::Uuid;

/// An id as a row has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stored<T>(pub T);

/// An id that a column can hold.
pub trait RowId: Copy + Send + Sync + 'static {
    /// The id as the database has it.
    fn to_uuid(self) -> Uuid;
    /// The id that the database has.
    fn from_uuid(uuid: Uuid) -> Self;
}

macro_rules! row_id {
    ($($id:ident),*) => {
        $(impl RowId for $id {
            fn to_uuid(self) -> Uuid {
                self.0
            }

            fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }
        })*
    };
}

row_id!(
    BundleId,
    ClusterId,
    DeploymentId,
    DeviceId,
    JournalId,
    ReplicaId,
    TargetId,
    TokenId
);

/// A bundle's row; outside of the store a bundle is named by its name and version, or its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleId(pub Uuid);

/// One run of a server, from its start to its stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub Uuid);

impl ReplicaId {
    /// The id of a server that starts.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::new_v4())
    }
}

/// Ids in the answers that are kept as JSON for repeated requests.
pub(crate) mod as_uuid {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use uuid::Uuid;

    use crate::store::entity::stored::RowId;

    pub(crate) fn serialize<T: RowId, S: Serializer>(
        id: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        id.to_uuid().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: RowId, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        Uuid::deserialize(deserializer).map(T::from_uuid)
    }
}

impl<T: RowId> Stored<T> {
    /// No id that was ever made; less than all of them.
    pub(crate) fn nil() -> Self {
        Self(T::from_uuid(Uuid::nil()))
    }

    /// The id as the database has it.
    pub(crate) fn uuid(self) -> Uuid {
        self.0.to_uuid()
    }

    /// The id as a page's token has it.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.uuid().as_bytes().to_vec()
    }
}

impl<T: RowId> std::fmt::Display for Stored<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.uuid().fmt(f)
    }
}

impl<T: RowId> serde::Serialize for Stored<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        as_uuid::serialize(&self.0, serializer)
    }
}

impl<'de, T: RowId> serde::Deserialize<'de> for Stored<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        as_uuid::deserialize(deserializer).map(Self)
    }
}

impl<T: RowId> From<Stored<T>> for Value {
    fn from(id: Stored<T>) -> Self {
        id.0.to_uuid().into()
    }
}

impl<T: RowId> TryGetable for Stored<T> {
    fn try_get_by<I: ColIdx>(row: &QueryResult, index: I) -> Result<Self, TryGetError> {
        Uuid::try_get_by(row, index).map(|uuid| Self(T::from_uuid(uuid)))
    }
}

impl<T: RowId> ValueType for Stored<T> {
    fn try_from(value: Value) -> Result<Self, ValueTypeErr> {
        <Uuid as ValueType>::try_from(value).map(|uuid| Self(T::from_uuid(uuid)))
    }

    fn type_name() -> String {
        Uuid::type_name()
    }

    fn array_type() -> ArrayType {
        Uuid::array_type()
    }

    fn column_type() -> ColumnType {
        Uuid::column_type()
    }
}

impl<T: RowId> Nullable for Stored<T> {
    fn null() -> Value {
        Uuid::null()
    }
}

impl<T: RowId> IntoActiveValue<Self> for Stored<T> {
    fn into_active_value(self) -> ActiveValue<Self> {
        ActiveValue::Set(self)
    }
}

impl<T: RowId> TryFromU64 for Stored<T> {
    fn try_from_u64(_: u64) -> Result<Self, DbErr> {
        Err(DbErr::ConvertFromU64("an id is not a number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_same_value_as_its_uuid_and_comes_back() {
        let id = DeviceId::generate();
        let value = Value::from(Stored(id));
        assert_eq!(value, Value::from(id.0));
        let back = <Stored<DeviceId> as ValueType>::try_from(value);
        assert_eq!(back.ok(), Some(Stored(id)));
        assert!(<Stored<DeviceId> as ValueType>::try_from(Value::from(1)).is_err());
        assert_eq!(Stored::<DeviceId>::null(), Uuid::null());
        assert_eq!(Stored::<DeviceId>::column_type(), Uuid::column_type());
    }
}
