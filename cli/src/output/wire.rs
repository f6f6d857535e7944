//! Messages of the contract as data: what `-o json`, `jsonl` and `yaml` print.
//!
//! A message is printed by its description in the schema. So data has the fields and the states of
//! the contract under their names, and a new field needs no code here.
//!
//! | in the schema | in the data |
//! |---|---|
//! | `string device_name` | `"device_name": "edge-1"`; empty when not set |
//! | `AttemptState state`, `ATTEMPT_STATE_FAILED` | `"state": "failed"`; empty for `UNSPECIFIED` |
//! | `uint64 size_bytes` | `"size_bytes": 512`, a number |
//! | `Timestamp created_at` | `"created_at": "2026-01-01T00:00:00Z"`; null when not set |
//! | `optional`, another message | null when not set |
//! | a member of a `oneof` | there only when it is the one that is set |
//! | `string detail_json` | `"detail": {...}`, the value of the text |

use std::{ops::Deref, sync::LazyLock};

use kernex_proto::v1;
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, ReflectMessage,
    Value,
};
use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeMap as _},
};

use crate::text::{Time, enum_word};

#[cfg(test)]
mod tests;

/// The schema, read once.
static SCHEMA: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(kernex_proto::DESCRIPTORS).ok());

const TIMESTAMP: &str = "google.protobuf.Timestamp";

/// A message that is printed as data.
pub(crate) trait Described: prost::Message {
    /// Its name in the schema.
    const NAME: &'static str;
}

macro_rules! described {
    ($($message:ident),* $(,)?) => {
        $(
            impl Described for v1::$message {
                const NAME: &'static str = concat!("kernex.v1.", stringify!($message));
            }
        )*

        /// All of them.
        #[cfg(test)]
        const DESCRIBED: &[&str] = &[$(concat!("kernex.v1.", stringify!($message))),*];
    };
}

described!(
    AuditEntry,
    Bundle,
    Configuration,
    CreateOperatorTokenResponse,
    Deployment,
    Device,
    DeviceHistoryEntry,
    DevicePlan,
    EnrollmentToken,
    Event,
    GetDeviceConfigurationResponse,
    GetFleetSummaryResponse,
    HaltedDevice,
    MetricSample,
    OperatorToken,
    PhaseStatus,
    RollbackStep,
    Target,
    WhoAmIResponse,
);

/// A message as it came from the server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wire<M>(pub(crate) M);

impl<M> Deref for Wire<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M: Described> Serialize for Wire<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let schema = SCHEMA.as_ref();
        let Some(descriptor) = schema.and_then(|schema| schema.get_message_by_name(M::NAME)) else {
            let name = M::NAME;
            return Err(S::Error::custom(format!("{name} is not in the schema")));
        };
        let mut message = DynamicMessage::new(descriptor);
        message.transcode_from(&self.0).map_err(S::Error::custom)?;
        Fields(&message).serialize(serializer)
    }
}

/// The fields of a message, in the order of their numbers.
struct Fields<'a>(&'a DynamicMessage);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.0;
        let mut map = serializer.serialize_map(None)?;
        for field in message.descriptor().fields() {
            let is_set = !field.supports_presence() || message.has_field(&field);
            if !is_set {
                if !is_alternative(&field) {
                    map.serialize_entry(field.name(), &None::<()>)?;
                }
                continue;
            }
            let value = message.get_field(&field);
            match (json_name(&field), value.as_str()) {
                (Some(name), Some(text)) => map.serialize_entry(name, &parsed(text))?,
                _ => map.serialize_entry(field.name(), &Shown::of(&value, &field))?,
            }
        }
        map.end()
    }
}

/// Whether another field may be set in place of this one.
fn is_alternative(field: &FieldDescriptor) -> bool {
    let oneof = field.containing_oneof();
    oneof.is_some_and(|oneof| !oneof.is_synthetic())
}

/// The name of a field that holds JSON as text, without the end that says so.
fn json_name(field: &FieldDescriptor) -> Option<&str> {
    let is_text = matches!(field.kind(), Kind::String) && !field.is_list() && !field.is_map();
    field.name().strip_suffix("_json").filter(|_| is_text)
}

/// The value that a text holds; a text that is no JSON stands for itself.
fn parsed(text: &str) -> serde_json::Value {
    if text.is_empty() {
        return serde_json::Value::Null;
    }
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// A value with the kind that its field has.
struct Shown<'a> {
    value: &'a Value,
    kind: Kind,
}

impl<'a> Shown<'a> {
    fn of(value: &'a Value, field: &FieldDescriptor) -> Self {
        let kind = match field.kind() {
            Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
            kind => kind,
        };
        Self { value, kind }
    }

    /// A part of this value: an item of a list, or the value of an entry.
    fn part<'b>(&self, value: &'b Value) -> Shown<'b> {
        Shown {
            value,
            kind: self.kind.clone(),
        }
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::I32(value) => serializer.serialize_i32(*value),
            Value::I64(value) => serializer.serialize_i64(*value),
            Value::U32(value) => serializer.serialize_u32(*value),
            Value::U64(value) => serializer.serialize_u64(*value),
            Value::F32(value) => serializer.serialize_f32(*value),
            Value::F64(value) => serializer.serialize_f64(*value),
            Value::String(text) => serializer.serialize_str(text),
            Value::Bytes(_) => Err(S::Error::custom("bytes are not printed as data")),
            Value::EnumNumber(number) => serializer.serialize_str(&self.state(*number)),
            Value::Message(message) if message.descriptor().full_name() == TIMESTAMP => {
                time(message).serialize(serializer)
            }
            Value::Message(message) => Fields(message).serialize(serializer),
            Value::List(items) => serializer.collect_seq(items.iter().map(|item| self.part(item))),
            Value::Map(entries) => {
                let mut entries: Vec<(&MapKey, &Value)> = entries.iter().collect();
                entries.sort_by(|a, b| a.0.cmp(b.0));
                let entries = entries.into_iter();
                serializer
                    .collect_map(entries.map(|(key, value)| (key_text(key), self.part(value))))
            }
        }
    }
}

impl Shown<'_> {
    fn state(&self, number: i32) -> String {
        match &self.kind {
            Kind::Enum(states) => state(states, number),
            _ => number.to_string(),
        }
    }
}

/// The word for a state: its name in the schema without the name of its type, in small letters.
fn state(states: &EnumDescriptor, number: i32) -> String {
    let nothing = states.default_value();
    let prefix = nothing.name().strip_suffix("UNSPECIFIED");
    let value = states.get_value(number);
    let name = value.as_ref().map(|value| value.name());
    enum_word(number, name, prefix.unwrap_or_default())
}

fn time(message: &DynamicMessage) -> Option<Time> {
    Time::from_wire(message.transcode_to().ok())
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}
