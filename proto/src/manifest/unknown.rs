//! Names in a manifest that are not in the table. Agents keep them all, because a bundle may be
//! newer than they are. Before a bundle is kept, a name that was surely meant to be another one is
//! refused: a `scirpt` would never run, and its deployment would succeed.

use serde_json::{Map, Value};

use super::table::{FIELDS, Field, fields_of};
use crate::near;

/// A name that is not in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// Where it stands, as `deploy.scirpt`.
    pub path: String,
    /// What was probably meant, as `deploy.script`.
    pub meant: Option<&'static str>,
    /// Whether it is a mistake: it stands in an object of Kernex' own, or is another name mistyped.
    pub is_mistake: bool,
}

/// Every name of a manifest that is not in the table, in the order of the file's objects.
#[must_use]
pub fn unknown_fields(manifest: &Value) -> Vec<UnknownField> {
    let Some(top) = manifest.as_object() else {
        return Vec::new();
    };
    let mut found: Vec<UnknownField> = unknown_in("", top)
        .filter(|name| *name != SCHEMA)
        .map(at_top)
        .collect();
    for object in FIELDS.iter().filter(|field| field.is_object()) {
        if let Some(Value::Object(inner)) = top.get(object.path) {
            found.extend(unknown_in(object.path, inner).map(|name| inside(object, name)));
        }
    }
    found
}

/// What a missing field of the top was probably called.
pub(super) fn instead_of<'a>(field: &str, top: &'a Map<String, Value>) -> Option<&'a str> {
    unknown_in("", top).find(|name| near::is_slip(name, field))
}

/// Where editors find the schema of a file.
const SCHEMA: &str = "$schema";

fn unknown_in<'a>(
    parent: &'a str,
    object: &'a Map<String, Value>,
) -> impl Iterator<Item = &'a str> {
    let names = object.keys().map(String::as_str);
    names.filter(move |name| fields_of(parent).all(|field| field.name() != *name))
}

/// People keep fields of their own at the top, so only what is surely a slip is a mistake there.
fn at_top(name: &str) -> UnknownField {
    // Short words mean other things as well, so they have to be the same.
    let is_slip = |field: &&Field| {
        let long = field.name().len() >= 6 || field.parent().is_empty();
        near::is_same_word(name, field.name())
            || long && near::is_slip(name, field.name())
            || field.also.iter().any(|also| near::is_same_word(name, also))
    };
    // Of several that fit: the one with the same letters first, then the one nearest to the top.
    let meant = FIELDS
        .iter()
        .filter(is_slip)
        .min_by_key(|field| (!near::is_same_word(name, field.name()), field.path.len()));
    UnknownField {
        path: name.to_owned(),
        meant: meant.map(|field| field.path),
        is_mistake: meant.is_some(),
    }
}

fn inside(object: &Field, name: &str) -> UnknownField {
    let here = near::closest(name, fields_of(object.path).map(Field::name));
    let misplaced = || {
        let same = FIELDS
            .iter()
            .find(|field| near::is_same_word(name, field.name()));
        let named = |field: &&Field| field.also.iter().any(|also| near::is_same_word(name, also));
        same.or_else(|| FIELDS.iter().find(named))
    };
    let field = match here {
        Some(here) => fields_of(object.path).find(|field| field.name() == here),
        None => misplaced(),
    };
    UnknownField {
        path: format!("{}.{name}", object.path),
        meant: field.map(|field| field.path),
        is_mistake: true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Path, what was meant, and whether it is a mistake.
    fn found(manifest: Value) -> Vec<(String, Option<&'static str>, bool)> {
        unknown_fields(&manifest)
            .into_iter()
            .map(|field| (field.path, field.meant, field.is_mistake))
            .collect()
    }

    #[test]
    fn a_name_in_an_object_of_our_own_is_a_mistake_whatever_it_is() {
        for (manifest, path, meant) in [
            (
                json!({"deploy": {"scirpt": "x"}}),
                "deploy.scirpt",
                Some("deploy.script"),
            ),
            (
                json!({"deploy": {"timeout": 1}}),
                "deploy.timeout",
                Some("deploy.timeout_seconds"),
            ),
            (
                json!({"deploy": {"pre": "x"}}),
                "deploy.pre",
                Some("hooks.pre"),
            ),
            (json!({"deploy": {"colour": 1}}), "deploy.colour", None),
            (
                json!({"hooks": {"Pre": "x"}}),
                "hooks.Pre",
                Some("hooks.pre"),
            ),
            (json!({"health": {"cmd": "x"}}), "health.cmd", None),
            (
                json!({"health": {"interval": 1}}),
                "health.interval",
                Some("health.interval_seconds"),
            ),
            (
                json!({"requires": {"disk-bytes": 1}}),
                "requires.disk-bytes",
                Some("requires.disk_bytes"),
            ),
            (
                json!({"rollback": {"scripts": "x"}}),
                "rollback.scripts",
                Some("rollback.script"),
            ),
        ] {
            assert_eq!(found(manifest), [(path.to_owned(), meant, true)]);
        }
    }

    #[test]
    fn at_the_top_only_what_was_surely_meant_otherwise_is_a_mistake() {
        for (name, meant) in [
            ("helth", "health"),
            ("healthcheck", "health"),
            ("health_check", "health"),
            ("HEALTH", "health"),
            ("script", "deploy.script"),
            ("scirpt", "deploy.script"),
            ("verison", "version"),
            ("rolback", "rollback"),
            ("timeoutSeconds", "deploy.timeout_seconds"),
            ("arch", "requires.arch"),
            ("environment", "env"),
            ("pre", "hooks.pre"),
            ("noNewPrivs", "no_new_privs"),
        ] {
            assert_eq!(
                found(json!({name: {}})),
                [(name.to_owned(), Some(meant), true)]
            );
        }
        for name in [
            "description",
            "author",
            "homepage",
            "license",
            "labels",
            "tags",
            "commit",
            "built_at",
            "x-owner",
            "team",
            "notes",
            "id",
            "type",
            "owner",
            "priority",
            "prev",
            "post_id",
            "host",
        ] {
            assert_eq!(found(json!({name: {}})), [(name.to_owned(), None, false)]);
        }
        assert_eq!(
            found(json!({"$schema": "x", "name": "a", "env": {"any": "x"}})),
            []
        );
    }

    #[test]
    fn what_is_no_object_has_no_names() {
        assert_eq!(found(json!([1])), []);
        assert_eq!(found(json!({"deploy": "x", "health": null})), []);
    }
}
