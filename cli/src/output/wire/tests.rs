//! Data has the fields and the states of its message, and those that stand here.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value as Json;

use super::*;
use crate::output::{
    access::EnrollmentView,
    audit::AuditView,
    bundle::BundleView,
    configuration::{ConfigurationView, DeviceConfigurationView},
    deployment::DeploymentView,
    device::{DeviceView, HistoryView, MetricView},
    event::EventView,
    halted::HaltedView,
    phase::PhaseView,
    plan::PlanView,
    rollback::{RollbackView, StepView},
    script_output::ScriptOutputView,
    status::StatusView,
    target::TargetView,
    token::{NewTokenView, TokenView},
    whoami::WhoAmIView,
};

/// Fields beside those of the message: the view, the field, and why it is there.
const ADDED: [(&str, &str, &str); 8] = [
    (
        "DeploymentView",
        "targets",
        "`deployment get` tells a deployment and its targets at once",
    ),
    (
        "DeviceConfigurationView",
        "device",
        "the answer does not repeat whom was asked about",
    ),
    (
        "DeviceConfigurationView",
        "state",
        "what follows from the three revisions",
    ),
    (
        "EnrollmentView",
        "text",
        "known only to `enrollment create`; so named in CreateEnrollmentTokenResponse",
    ),
    (
        "NewTokenView",
        "name",
        "the answer does not repeat what was asked for",
    ),
    (
        "NewTokenView",
        "role",
        "the answer does not repeat what was asked for",
    ),
    (
        "RollbackView",
        "steps",
        "what becomes of each device; so named in RollbackDeploymentResponse",
    ),
    (
        "ScriptOutputView",
        "output",
        "`output_tail`, cut apart at `output_marks`",
    ),
];

/// Views of no message, and what they show.
const OWN: [(&str, &str); 6] = [
    ("CheckView", "what `doctor` found"),
    ("ContextView", "the file of contexts"),
    ("DeploymentChange", "one view a line, named by `change`"),
    ("DeviceChange", "one view a line, named by `change`"),
    ("Thing", "for a test"),
    ("VersionView", "the versions of two programs"),
];

/// Compares a view with its message, with every field set and every state in turn.
fn check<M, V>(name: &'static str, view: impl Fn(M) -> V) -> (&'static str, &'static str)
where
    M: Described + Default,
    V: Serialize,
{
    let schema = SCHEMA.as_ref().unwrap();
    let descriptor = schema.get_message_by_name(M::NAME).unwrap();
    let added: Vec<&str> = ADDED
        .iter()
        .filter(|(view, ..)| *view == name)
        .map(|(_, field, _)| *field)
        .collect();
    for turn in 0..24 {
        let message = filled(&descriptor, turn).transcode_to().unwrap();
        let json = serde_json::to_value(view(message)).unwrap();
        compare(name, &json, &descriptor, &added);
    }
    let json = serde_json::to_value(view(M::default())).unwrap();
    compare(name, &json, &descriptor, &added);
    (name, M::NAME)
}

/// A message with every field set. The turn chooses among states and alternatives.
fn filled(descriptor: &prost_reflect::MessageDescriptor, turn: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    if descriptor.full_name() == TIMESTAMP {
        message.set_field_by_name("seconds", Value::I64(1_000));
        return message;
    }
    for field in descriptor.fields() {
        let alternatives = field.containing_oneof().map(|oneof| {
            let all: Vec<u32> = oneof.fields().map(|field| field.number()).collect();
            all[turn % all.len()]
        });
        if alternatives.is_some_and(|chosen| chosen != field.number()) {
            continue;
        }
        let value = if field.is_map() {
            Value::Map([(MapKey::String("a".into()), Value::String("b".into()))].into())
        } else if field.is_list() {
            Value::List(vec![some(&field, turn), some(&field, turn + 1)])
        } else {
            some(&field, turn)
        };
        message.set_field(&field, value);
    }
    message
}

fn some(field: &FieldDescriptor, turn: usize) -> Value {
    match field.kind() {
        Kind::Message(inner) => Value::Message(filled(&inner, turn)),
        Kind::Enum(states) => {
            let numbers: Vec<i32> = states.values().map(|value| value.number()).collect();
            Value::EnumNumber(numbers[turn % numbers.len()])
        }
        Kind::String if field.name().ends_with("_json") => Value::String(r#"{"a":1}"#.into()),
        Kind::String => Value::String("text".into()),
        Kind::Bool => Value::Bool(true),
        Kind::Double => Value::F64(1.5),
        Kind::Uint32 => Value::U32(7),
        Kind::Uint64 => Value::U64(7),
        Kind::Int32 => Value::I32(7),
        Kind::Sint64 => Value::I64(-7),
        other => panic!("{}: nothing is known of {other:?}", field.full_name()),
    }
}

/// Fails when an object has a field that its message and the list of additions have not, lacks one
/// that the message has, or has a state that the schema does not know.
fn compare(view: &str, json: &Json, descriptor: &prost_reflect::MessageDescriptor, added: &[&str]) {
    let object = json.as_object().unwrap_or_else(|| {
        panic!("{view}: {} is no object: {json}", descriptor.full_name());
    });
    let fields: Vec<FieldDescriptor> = descriptor.fields().collect();
    let mut known: BTreeSet<&str> = added.iter().copied().collect();
    for field in &fields {
        let is_text = matches!(field.kind(), Kind::String);
        let name = field.name();
        let name = name
            .strip_suffix("_json")
            .filter(|_| is_text)
            .unwrap_or(name);
        known.insert(name);
        let oneof = field.containing_oneof();
        let is_alternative = oneof.is_some_and(|oneof| oneof.fields().len() > 1);
        match object.get(name) {
            Some(value) => compare_value(view, value, field),
            None => assert!(is_alternative, "{view} lacks {}", field.full_name()),
        }
    }
    for name in object.keys() {
        assert!(
            known.contains(name.as_str()),
            "{view} has `{name}`, which {} has not; name it in ADDED with its reason",
            descriptor.full_name()
        );
    }
}

fn compare_value(view: &str, value: &Json, field: &FieldDescriptor) {
    let at = format!("{view}: {}", field.full_name());
    if field.is_list() {
        for item in value.as_array().unwrap_or_else(|| panic!("{at}: {value}")) {
            compare_one(view, &at, item, field);
        }
    } else if field.is_map() {
        assert!(value.is_object(), "{at}: {value}");
    } else if !(field.supports_presence() && value.is_null()) {
        compare_one(view, &at, value, field);
    }
}

fn compare_one(view: &str, at: &str, value: &Json, field: &FieldDescriptor) {
    match field.kind() {
        Kind::Message(inner) if inner.full_name() == TIMESTAMP => {
            let text = value.as_str().unwrap_or_else(|| panic!("{at}: {value}"));
            text.parse::<jiff::Timestamp>().unwrap();
        }
        Kind::Message(inner) => compare(view, value, &inner, &[]),
        Kind::Enum(states) => {
            let names = states.values();
            let words: Vec<String> = names.map(|name| word_of(&states, name.name())).collect();
            let said = value.as_str().unwrap_or_else(|| panic!("{at}: {value}"));
            let is_known = said.is_empty() || words.iter().any(|word| word == said);
            assert!(is_known, "{at}: `{said}` is none of {words:?}");
        }
        Kind::String if field.name().ends_with("_json") => {
            assert!(value.is_object() || value.is_null(), "{at}: {value}");
        }
        Kind::String => assert!(value.is_string(), "{at}: {value}"),
        Kind::Bool => assert!(value.is_boolean(), "{at}: {value}"),
        _ => assert!(value.is_number(), "{at}: {value}"),
    }
}

/// `AttemptState`, `ATTEMPT_STATE_FAILED` -> `failed`: by the name of the type, as people read it.
fn word_of(states: &EnumDescriptor, name: &str) -> String {
    let mut prefix = String::new();
    for (place, letter) in states.name().char_indices() {
        if letter.is_ascii_uppercase() && place > 0 {
            prefix.push('_');
        }
        prefix.push(letter.to_ascii_uppercase());
    }
    let prefix = format!("{prefix}_");
    let word = name.strip_prefix(&prefix);
    word.unwrap_or_else(|| panic!("{name} does not begin with {prefix}"))
        .to_ascii_lowercase()
}

/// Every view with its message.
fn checked() -> Vec<(&'static str, &'static str)> {
    vec![
        check::<v1::AuditEntry, AuditView>("AuditView", From::from),
        check::<v1::Bundle, BundleView>("BundleView", From::from),
        check::<v1::Configuration, ConfigurationView>("ConfigurationView", From::from),
        check::<v1::Deployment, DeploymentView>("DeploymentView", From::from),
        check("DeploymentView", |deployment: v1::Deployment| {
            DeploymentView::from(deployment).with_targets(Vec::new())
        }),
        check("DeviceConfigurationView", |answer| {
            DeviceConfigurationView::new("edge-1".into(), answer)
        }),
        check::<v1::Device, DeviceView>("DeviceView", From::from),
        check("EnrollmentView", |token: v1::EnrollmentToken| {
            EnrollmentView::from(token).with_text("kxe1".into())
        }),
        check::<v1::Event, EventView>("EventView", From::from),
        check::<v1::HaltedDevice, HaltedView>("HaltedView", From::from),
        check::<v1::DeviceHistoryEntry, HistoryView>("HistoryView", From::from),
        check::<v1::MetricSample, MetricView>("MetricView", From::from),
        check("NewTokenView", |made| {
            NewTokenView::new("ci".into(), v1::Role::Viewer, made)
        }),
        check("PhaseView", |status| PhaseView::new(status, true)),
        check::<v1::DevicePlan, PlanView>("PlanView", From::from),
        check("RollbackView", |deployment| {
            RollbackView::new(deployment, Vec::new())
        }),
        check::<v1::Target, ScriptOutputView>("ScriptOutputView", From::from),
        check::<v1::GetFleetSummaryResponse, StatusView>("StatusView", From::from),
        check::<v1::RollbackStep, StepView>("StepView", From::from),
        check::<v1::Target, TargetView>("TargetView", From::from),
        check::<v1::OperatorToken, TokenView>("TokenView", From::from),
        check::<v1::WhoAmIResponse, WhoAmIView>("WhoAmIView", From::from),
    ]
}

#[test]
fn data_has_the_fields_and_states_of_its_message() {
    let messages: BTreeSet<&str> = checked().into_iter().map(|(_, message)| message).collect();
    let described: BTreeSet<&str> = DESCRIBED.iter().copied().collect();
    assert_eq!(messages, described, "each message is compared");
}

#[test]
fn no_view_is_left_out() {
    let compared = checked().into_iter().map(|(view, _)| view);
    let known: BTreeSet<&str> = compared.chain(OWN.iter().map(|(view, _)| *view)).collect();
    let mut found = BTreeSet::new();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/output");
    views_in(&sources, &mut found);
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(
        found, known,
        "each view is compared with its message, or named in OWN"
    );
}

/// The types under a folder that can be listed.
fn views_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            views_in(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(str::trim_start);
        let names = lines.filter_map(|line| line.strip_prefix("impl View for "));
        found.extend(names.map(|name| name.trim_end_matches(" {").to_owned()));
    }
}

#[test]
fn data_says_nothing_where_nothing_is_set() {
    let json = serde_json::to_value(TargetView::from(v1::Target::default())).unwrap();
    assert_eq!(json["state"], "");
    assert_eq!(json["device_name"], "");
    assert!(json["progress"].is_null() && json["updated_at"].is_null());
    assert!(json["exit_code"].is_null(), "not 0, which is a success");
    assert_eq!(json["output_marks"], serde_json::json!([]));
    let event = serde_json::to_value(EventView::from(v1::Event::default())).unwrap();
    assert!(event.get("attempt").is_none(), "one of several: {event}");
    assert!(event["detail"].is_null());
}

#[test]
fn what_a_newer_or_broken_server_sends_is_printed() {
    let target = v1::Target {
        state: 99,
        updated_at: Some(prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: -1,
        }),
        ..Default::default()
    };
    let json = serde_json::to_value(TargetView::from(target)).unwrap();
    assert_eq!(json["state"], "unknown");
    assert!(json["updated_at"].is_null(), "out of any calendar");
    let bundle = v1::Bundle {
        manifest_json: "{broken".into(),
        ..Default::default()
    };
    let json = serde_json::to_value(BundleView::from(bundle)).unwrap();
    assert_eq!(json["manifest"], "{broken");
}
