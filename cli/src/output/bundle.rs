//! Bundles, as printed.

use kernex_proto::v1;
use serde::Serialize;

use super::{Details, Field, Time, View, ago, bytes, short_digest, state_word};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct BundleView {
    name: String,
    version: String,
    digest: String,
    size_bytes: u64,
    format: String,
    manifest: serde_json::Value,
    created_at: Option<Time>,
}

impl From<v1::Bundle> for BundleView {
    fn from(wire: v1::Bundle) -> Self {
        Self {
            format: match wire.format() {
                v1::BundleFormat::TarGz => "tar.gz".to_owned(),
                v1::BundleFormat::TarZst => "tar.zst".to_owned(),
                v1::BundleFormat::Unspecified => {
                    state_word!(v1::BundleFormat, wire.format, "BUNDLE_FORMAT_")
                }
            },
            manifest: serde_json::from_str(&wire.manifest_json).unwrap_or_default(),
            created_at: Time::from_wire(wire.created_at),
            name: wire.name,
            version: wire.version,
            digest: wire.digest,
            size_bytes: wire.size_bytes,
        }
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
        let digest = if wide {
            &self.digest
        } else {
            short_digest(&self.digest)
        };
        let mut row = vec![
            Field::plain(self.name()),
            Field::plain(bytes(self.size_bytes)),
            Field::plain(ago(self.created_at, now)),
            Field::plain(digest),
        ];
        if wide {
            row.push(Field::plain(&self.format));
        }
        row
    }

    fn name(&self) -> String {
        format!("{}:{}", self.name, self.version)
    }
}

impl Details for BundleView {
    fn details(&self, _wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        vec![
            ("Bundle", Field::plain(self.name())),
            ("Digest", Field::plain(&self.digest)),
            ("Size", Field::plain(bytes(self.size_bytes))),
            ("Format", Field::plain(&self.format)),
            ("Pushed", Field::plain(ago(self.created_at, now))),
            ("Manifest", Field::plain(self.manifest.to_string())),
        ]
    }
}
