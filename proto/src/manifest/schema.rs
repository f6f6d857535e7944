//! The JSON Schema of the manifest, made from the table.

use serde_json::{Map, Value, json};

use super::{
    MAX_TIMEOUT_SECONDS,
    table::{Field, Shape, fields_of},
};

/// The schema that `docs/manifest.schema.json` holds. Names that are not in the table are welcome
/// at the top and refused in the objects below it.
#[must_use]
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Kernex bundle manifest",
        "description": "manifest.json at the root of a bundle. Fields at the top that are not listed here are kept, not refused.",
        "type": "object",
        "required": ["version"],
        "additionalProperties": true,
        "properties": properties(""),
        "$defs": {
            "script": {"type": ["string", "null"], "pattern": "\\S", "maxLength": 65536},
            "oneOf": {
                "anyOf": [
                    {"type": "null"},
                    {"type": "string", "pattern": "\\S"},
                    {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "\\S"}}
                ]
            }
        }
    })
}

fn properties(parent: &str) -> Value {
    let described = fields_of(parent).map(|field| (field.name().to_owned(), property(field)));
    Value::Object(described.collect())
}

fn property(field: &Field) -> Value {
    let mut value = match &field.shape {
        Shape::Name => json!({
            "type": ["string", "null"],
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
        }),
        Shape::Version => json!({
            "type": "string",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._+~-]{0,99}$"
        }),
        Shape::Object => object(field),
        Shape::OneFieldOf(names) => {
            let mut value = object(field);
            let one: Vec<Value> = names.iter().map(|n| json!({"required": [n]})).collect();
            set(&mut value, "oneOf", one.into());
            value
        }
        Shape::Script => json!({"$ref": "#/$defs/script"}),
        Shape::Seconds { least, default } => json!({
            "type": ["integer", "null"],
            "minimum": least,
            "maximum": MAX_TIMEOUT_SECONDS,
            "default": default
        }),
        Shape::Count { most, default } => {
            let mut value = json!({"type": ["integer", "null"], "minimum": 0});
            for (name, number) in [("maximum", most), ("default", default)] {
                if let Some(number) = number {
                    set(&mut value, name, json!(number));
                }
            }
            value
        }
        Shape::Texts => json!({
            "type": ["object", "null"],
            "propertyNames": {"pattern": "^[^=]+$"},
            "additionalProperties": {"type": "string"}
        }),
        Shape::Words => json!({"$ref": "#/$defs/oneOf"}),
        Shape::HostPort => json!({
            "type": ["string", "null"],
            "pattern": "^[^/ ]+:[0-9]{1,5}$"
        }),
        Shape::HttpAddress => json!({"type": ["string", "null"], "pattern": "^http://[^/]"}),
        Shape::Word { words, default } => {
            let mut all: Vec<Value> = words.iter().map(|word| json!(word)).collect();
            all.push(Value::Null);
            let mut value = json!({"enum": all});
            if let Some(default) = default {
                set(&mut value, "default", json!(default));
            }
            value
        }
        Shape::Flag { default } => json!({"type": ["boolean", "null"], "default": default}),
    };
    set(&mut value, "description", json!(field.about));
    value
}

fn object(field: &Field) -> Value {
    json!({
        "type": ["object", "null"],
        "properties": properties(field.path),
        "additionalProperties": false
    })
}

fn set(value: &mut Value, name: &str, what: Value) {
    if let Some(fields) = value.as_object_mut() {
        let fields: &mut Map<String, Value> = fields;
        fields.insert(name.to_owned(), what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To write it anew: `KERNEX_WRITE_SCHEMA=1 cargo test -p kernex-proto schema`.
    #[test]
    fn the_published_schema_is_the_one_that_the_table_makes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/manifest.schema.json");
        let made = format!("{:#}\n", schema());
        if std::env::var_os("KERNEX_WRITE_SCHEMA").is_some() {
            std::fs::write(path, &made).unwrap();
        }
        let published = std::fs::read_to_string(path).unwrap();
        assert!(
            published == made,
            "docs/manifest.schema.json is not what the table makes; write it with KERNEX_WRITE_SCHEMA=1"
        );
    }
}
