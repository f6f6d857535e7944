//! Changes that are safe to repeat: the same request gets its first answer again.
//!
//! Requests are compared by a hash over their encoding. It covers all fields of the contract, also
//! those that are added later. Maps of the contract are sorted, so the same request always has the
//! same bytes. See `docs/decisions/0036-request-hashes-over-the-encoded-request.md`.

use std::net::IpAddr;

use kernex_proto::ids::{Digest, TokenId};
use sea_orm::{EntityTrait, sea_query::OnConflict};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::store::{
    db::{
        error::{Result, StoreError},
        sizes::insert_all,
        transaction::Tx,
    },
    entity::request,
    read::scope::Scope,
};

/// Who makes a change. The audit and events name it, and repeated requests are compared for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name on the operator's token.
    pub name: String,
    /// What they may see, and so what they may name.
    pub scope: Scope,
    /// For a request that may be repeated: what its answer is kept under.
    pub request: Option<RequestKey>,
    pub method: &'static str,
    pub origin: Origin,
}

/// Where a call came from. All is `None` for what the server does by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    pub token: Option<TokenId>,
    /// Without the port.
    pub address: Option<IpAddr>,
}

impl Caller {
    /// Adds who made it to the details of an event.
    pub(crate) fn made(&self, mut detail: Value) -> Value {
        if let Some(fields) = detail.as_object_mut() {
            fields.insert("by".to_owned(), Value::from(self.name.as_str()));
        }
        detail
    }
}

/// Tells a repetition from another request under the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKey {
    /// The caller chose it. The same id again gets the first answer.
    pub id: Uuid,
    /// Of the encoded request.
    pub hash: Digest,
}

/// Stands before a stored hash and says what was hashed. Another way to hash needs another mark.
const ENCODED: &str = "v2:";

impl RequestKey {
    /// The key of a request, under the id that its caller chose.
    pub fn new(id: Uuid, request: &impl prost::Message) -> Self {
        Self {
            id,
            hash: Digest::of(&request.encode_to_vec()),
        }
    }

    fn stored(&self) -> String {
        format!("{ENCODED}{}", self.hash)
    }

    /// Whether a row may be the answer to this request. A row without the mark is from a version
    /// that hashed in another way, so its hash cannot be compared. The same id is then taken for
    /// the same request: to refuse it would answer an honest repetition with an error.
    fn fits(&self, stored: &str) -> bool {
        !stored.starts_with(ENCODED) || stored == self.stored()
    }
}

/// The answer that this request got before, if it was made before.
pub(crate) async fn replayed<T: DeserializeOwned>(tx: &Tx, caller: &Caller) -> Result<Option<T>> {
    let Some(request) = caller.request else {
        return Ok(None);
    };
    let key = (caller.name.clone(), caller.method.to_owned(), request.id);
    let Some(row) = request::Entity::find_by_id(key).one(&tx.db).await? else {
        return Ok(None);
    };
    if !request.fits(&row.body_hash) {
        return Err(StoreError::RequestIdReused);
    }
    let answer = serde_json::from_str(&row.response).map_err(|error| {
        StoreError::Db(sea_orm::DbErr::Json(format!(
            "answer to request {}: {error}",
            request.id
        )))
    })?;
    Ok(Some(answer))
}

/// Keeps the answer for repetitions.
pub(crate) async fn remember(tx: &Tx, caller: &Caller, answer: &impl Serialize) -> Result<()> {
    let Some(request) = caller.request else {
        return Ok(());
    };
    let response =
        serde_json::to_string(answer).map_err(|error| sea_orm::DbErr::Json(error.to_string()))?;
    let row = request::Model {
        principal: caller.name.clone(),
        method: caller.method.to_owned(),
        request_id: request.id,
        body_hash: request.stored(),
        response,
        created_at: tx.now.0,
    };
    // A caller whose answer is not replayed may still use an id again. The first answer stays.
    let first_stays = OnConflict::columns([
        request::Column::Principal,
        request::Column::Method,
        request::Column::RequestId,
    ])
    .do_nothing()
    .to_owned();
    insert_all::<request::Entity>(&tx.db, vec![row], Some(first_stays)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use kernex_proto::v1;
    use prost::Message;
    use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

    use super::*;

    /// Hashes a request that came as these bytes.
    type Hash = fn(&[u8]) -> Digest;

    /// Reads a request as the server does, and hashes it as it does.
    fn hash<M: Message + Default>(bytes: &[u8]) -> Digest {
        let request = M::decode(bytes).expect("a request");
        RequestKey::new(Uuid::nil(), &request).hash
    }

    macro_rules! requests {
        ($($name:ident),* $(,)?) => {
            [$((stringify!($name), hash::<v1::$name> as Hash)),*]
        };
    }

    /// All requests with a `request_id`.
    const REQUESTS: [(&str, Hash); 18] = requests![
        CancelDeploymentRequest,
        CreateDeploymentRequest,
        CreateEnrollmentTokenRequest,
        CreateOperatorTokenRequest,
        DeleteBundleRequest,
        DeleteConfigurationRequest,
        DeleteDeviceRequest,
        HaltDeploymentRequest,
        PauseDeploymentRequest,
        PromoteDeploymentRequest,
        ResolveDeviceRequest,
        ResumeDeploymentRequest,
        RetryDeploymentRequest,
        RevokeEnrollmentTokenRequest,
        RevokeOperatorTokenRequest,
        RollbackDeploymentRequest,
        SetConfigurationRequest,
        UpdateDeviceLabelsRequest,
    ];

    /// Messages of the contract and of what it uses, by full name.
    fn messages() -> BTreeMap<String, DescriptorProto> {
        fn add(all: &mut BTreeMap<String, DescriptorProto>, within: &str, one: &DescriptorProto) {
            let name = format!("{within}.{}", one.name());
            for nested in &one.nested_type {
                add(all, &name, nested);
            }
            all.insert(name, one.clone());
        }
        let files = FileDescriptorSet::decode(kernex_proto::DESCRIPTORS).expect("descriptors");
        let mut all = BTreeMap::new();
        for file in &files.file {
            for message in &file.message_type {
                add(&mut all, &format!(".{}", file.package()), message);
            }
        }
        all
    }

    fn varint(mut value: u64, to: &mut Vec<u8>) {
        while value > 0x7f {
            to.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        to.push(value as u8);
    }

    fn field(number: i32, wire: u64, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        varint((number as u64) << 3 | wire, &mut bytes);
        if wire == 2 {
            varint(value.len() as u64, &mut bytes);
        }
        bytes.extend_from_slice(value);
        bytes
    }

    /// Messages that differ from an empty one in one field, however deep it is, each with the path
    /// of that field.
    fn one_field_each(
        messages: &BTreeMap<String, DescriptorProto>,
        name: &str,
        path: &str,
    ) -> Vec<(String, Vec<u8>)> {
        use prost_types::field_descriptor_proto::Type;
        let mut all = Vec::new();
        for one in &messages[name].field {
            let path = format!("{path}.{}", one.name());
            let number = one.number();
            let (wire, values): (u64, Vec<Vec<u8>>) = match one.r#type() {
                Type::Message => {
                    let inner = one_field_each(messages, one.type_name(), &path);
                    for (path, inner) in inner {
                        all.push((path, field(number, 2, &inner)));
                    }
                    (2, vec![Vec::new()])
                }
                Type::String => (2, vec![b"a".to_vec(), b"b".to_vec()]),
                Type::Bytes => (2, vec![vec![1], vec![2]]),
                Type::Double | Type::Fixed64 | Type::Sfixed64 => (1, vec![vec![1; 8]]),
                Type::Float | Type::Fixed32 | Type::Sfixed32 => (5, vec![vec![1; 4]]),
                Type::Bool => (0, vec![vec![1]]),
                _ => (0, vec![vec![1], vec![2]]),
            };
            for value in values {
                all.push((format!("{path} = {value:?}"), field(number, wire, &value)));
            }
        }
        all
    }

    #[test]
    fn every_request_with_an_id_is_walked() {
        let has_id = |one: &FieldDescriptorProto| one.name() == "request_id";
        let messages = messages();
        let with_id = messages.iter().filter(|(_, message)| {
            message.name().ends_with("Request") && message.field.iter().any(has_id)
        });
        let with_id: BTreeSet<&str> = with_id.map(|(_, message)| message.name()).collect();
        let walked: BTreeSet<&str> = REQUESTS.iter().map(|(name, _)| *name).collect();
        assert_eq!(with_id, walked);
    }

    #[test]
    fn any_field_that_differs_makes_another_request() {
        let messages = messages();
        for (name, hash) in REQUESTS {
            let mut seen = BTreeMap::from([(hash(&[]), "nothing".to_owned())]);
            let fields = one_field_each(&messages, &format!(".kernex.v1.{name}"), name);
            assert!(fields.len() > 1, "{name}: its fields are found");
            for (path, bytes) in fields {
                assert_eq!(hash(&bytes), hash(&bytes), "{path}: the same each time");
                if let Some(other) = seen.insert(hash(&bytes), path.clone()) {
                    panic!("{path} hashes like {other}");
                }
            }
        }
    }

    #[test]
    fn the_order_of_what_is_in_a_map_does_not_matter() {
        let messages = messages();
        let entries = |backwards: bool| {
            let mut keys: Vec<u8> = (b'a'..=b'z').collect();
            if backwards {
                keys.reverse();
            }
            keys.into_iter()
                .map(|key| [field(1, 2, &[key]), field(2, 2, &[key])].concat())
                .collect::<Vec<_>>()
        };
        // Maps of each request, and of the messages in it.
        let mut maps = 0;
        for (name, hash) in REQUESTS {
            for path in maps_within(&messages, &format!(".kernex.v1.{name}"), &mut Vec::new()) {
                let encoded = |backwards: bool| {
                    let (map, outer) = path.split_last().expect("a path");
                    let all = entries(backwards);
                    let all = all.iter().map(|entry| field(*map, 2, entry));
                    let inner = all.collect::<Vec<_>>().concat();
                    let wrap = |inner: Vec<u8>, number: &i32| field(*number, 2, &inner);
                    outer.iter().rev().fold(inner, wrap)
                };
                assert_ne!(encoded(false), encoded(true));
                assert_eq!(
                    hash(&encoded(false)),
                    hash(&encoded(true)),
                    "{name}: {path:?}"
                );
                maps += 1;
            }
        }
        assert!(maps >= 3, "{maps}: they are found");
    }

    /// The field numbers on the way to each map in a message.
    fn maps_within(
        messages: &BTreeMap<String, DescriptorProto>,
        name: &str,
        way: &mut Vec<i32>,
    ) -> Vec<Vec<i32>> {
        let mut found = Vec::new();
        for one in &messages[name].field {
            let Some(inner) = messages.get(one.type_name()) else {
                continue;
            };
            way.push(one.number());
            let options = inner.options.as_ref();
            if options.is_some_and(prost_types::MessageOptions::map_entry) {
                found.push(way.clone());
            } else {
                found.extend(maps_within(messages, one.type_name(), way));
            }
            way.pop();
        }
        found
    }

    #[test]
    fn a_hash_of_an_earlier_version_is_no_conflict_and_one_of_this_is_compared() {
        let key = RequestKey::new(Uuid::nil(), &v1::DeleteDeviceRequest::default());
        let other = RequestKey {
            hash: Digest::of(b"another"),
            ..key
        };
        assert!(key.fits(&key.stored()) && !other.fits(&key.stored()));
        let earlier = Digest::of(b"[\"edge-1\"]").to_string();
        assert!(key.fits(&earlier) && other.fits(&earlier));
    }
}
