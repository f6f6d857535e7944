//! Bundles, as printed.

use kernex_proto::v1;
use serde::Serialize;

use super::{Details, Field, Time, View, ago, bytes, short_digest, state_word, wire::Wire};

#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct BundleView {
    bundle: Wire<v1::Bundle>,
}

impl From<v1::Bundle> for BundleView {
    fn from(bundle: v1::Bundle) -> Self {
        Self {
            bundle: Wire(bundle),
        }
    }
}

impl BundleView {
    /// "tar.gz", as files of this format are named.
    fn format(&self) -> String {
        let format = state_word!(v1::BundleFormat, self.bundle.format, "BUNDLE_FORMAT_");
        format.replace('_', ".")
    }

    /// On one line.
    fn manifest(&self) -> String {
        let manifest: serde_json::Value =
            serde_json::from_str(&self.bundle.manifest_json).unwrap_or_default();
        manifest.to_string()
    }
}

impl View for BundleView {
    const EMPTY: &'static str = "No bundles. Push one: `kernexctl bundle push DIR`.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["BUNDLE", "SIZE", "PUSHED", "DIGEST"];
        if wide {
            titles.push("FORMAT");
        }
        titles
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        let bundle = &self.bundle;
        let digest = if wide {
            &bundle.digest
        } else {
            short_digest(&bundle.digest)
        };
        let mut row = vec![
            Field::plain(self.name()),
            Field::plain(bytes(bundle.size_bytes)),
            Field::plain(ago(Time::from_wire(bundle.created_at), now)),
            Field::plain(digest),
        ];
        if wide {
            row.push(Field::plain(self.format()));
        }
        row
    }

    fn name(&self) -> String {
        format!("{}:{}", self.bundle.name, self.bundle.version)
    }
}

impl Details for BundleView {
    fn details(&self, _wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        let bundle = &self.bundle;
        let pushed = ago(Time::from_wire(bundle.created_at), now);
        vec![
            ("Bundle", Field::plain(self.name())),
            ("Digest", Field::plain(&bundle.digest)),
            ("Size", Field::plain(bytes(bundle.size_bytes))),
            ("Format", Field::plain(self.format())),
            ("Pushed", Field::plain(pushed)),
            ("Manifest", Field::plain(self.manifest())),
        ]
    }
}
