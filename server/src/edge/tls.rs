//! The certificates of the server. It makes a CA for twenty years, and a leaf for ninety days that
//! it renews while it runs. Beside them there may be one that somebody else made.

mod given;
mod issue;
mod private_file;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use kernex_proto::ids::Digest;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use self::{
    given::GivenFiles,
    private_file::{sweep_private, write_private},
};
use self::{
    given::{Given, pins_our_ca},
    issue::{Files, issue, load, make_ca, must_issue, names, read},
};
use crate::clock::Clock;

/// The server's identity on the wire. It is kept in the data folder.
#[derive(Debug)]
pub struct Identity {
    folder: PathBuf,
    names: Vec<String>,
    clock: Clock,
    leaf: Arc<Leaf>,
    ca_pem: String,
    ca_pin: Digest,
}

/// Hands rustls the newest leaf. It may be replaced while handshakes go on.
#[derive(Debug)]
struct Leaf {
    own: ArcSwap<CertifiedKey>,
    /// For peers that do not pin our CA.
    given: Option<Given>,
}

impl ResolvesServerCert for Leaf {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match &self.given {
            Some(given) if !pins_our_ca(&hello) => Some(given.current()),
            _ => Some(self.own.load_full()),
        }
    }
}

impl Identity {
    /// Loads what the folder holds. Makes what is missing, what is due for renewal, and a leaf that
    /// lacks one of the names.
    pub fn open(folder: &Path, public: &[String], clock: Clock) -> anyhow::Result<Self> {
        Self::open_with(folder, public, None, clock)
    }

    /// The same, beside a certificate that somebody else made.
    pub fn open_with(
        folder: &Path,
        public: &[String],
        given: Option<GivenFiles>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let names = names(public);
        let files = Files(folder);
        if !files.ca().exists() {
            make_ca(&files, now(&clock)?)?;
        }
        let ca_pem = read(&files.ca())?;
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .with_context(|| format!("{} is not a PEM certificate", files.ca().display()))?;
        let ca_pin = pin(&ca).with_context(|| format!("{}", files.ca().display()))?;
        if must_issue(&files, &names, now(&clock)?)? {
            issue(&files, &names, now(&clock)?)?;
        }
        let leaf = Arc::new(Leaf {
            own: ArcSwap::from_pointee(load(&files)?),
            given: given.map(Given::load).transpose()?,
        });
        Ok(Self {
            folder: folder.to_owned(),
            names,
            clock,
            leaf,
            ca_pem,
            ca_pin,
        })
    }

    /// SHA-256 of the CA's public key (SPKI DER). Enrolment tokens carry it.
    #[must_use]
    pub fn ca_pin(&self) -> Digest {
        self.ca_pin
    }

    /// The CA certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Issues and loads a new leaf when the present one is due. True when it did.
    pub fn renew(&self) -> anyhow::Result<bool> {
        let files = Files(&self.folder);
        let at = now(&self.clock)?;
        if !must_issue(&files, &self.names, at)? {
            return Ok(false);
        }
        issue(&files, &self.names, at)?;
        self.leaf.own.store(Arc::new(load(&files)?));
        Ok(true)
    }

    /// Loads the certificate that somebody else made, when its files have changed. True when it
    /// did.
    pub fn reload(&self) -> anyhow::Result<bool> {
        self.leaf.given.as_ref().map_or(Ok(false), Given::reload)
    }

    /// When each certificate ends, in seconds since 1970, with its label; see
    /// [`CERTIFICATES`](crate::metrics::CERTIFICATES).
    #[must_use]
    pub fn ends(&self) -> Vec<(&'static str, i64)> {
        let end = |kind, certificate: Option<&CertificateDer<'_>>| {
            let (_, parsed) = X509Certificate::from_der(certificate?).ok()?;
            Some((kind, parsed.validity().not_after.timestamp()))
        };
        let own = self.leaf.own.load();
        let ca = CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).ok();
        let given = self.leaf.given.as_ref().map(Given::current);
        let given = given.as_ref().and_then(|given| given.cert.first());
        let all = [
            end("server", own.cert.first()),
            end("ca", ca.as_ref()),
            end("given", given),
        ];
        all.into_iter().flatten().collect()
    }

    /// TLS 1.3 with HTTP/2 and nothing else.
    pub fn server_config(&self) -> anyhow::Result<ServerConfig> {
        let leaf: Arc<dyn ResolvesServerCert> = self.leaf.clone();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(leaf);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn now(clock: &Clock) -> anyhow::Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(clock.now().0 / 1_000_000).context("the clock is off")
}

/// SHA-256 of a certificate's public key, SPKI DER.
pub fn pin(certificate: &[u8]) -> anyhow::Result<Digest> {
    let (_, parsed) = X509Certificate::from_der(certificate).context("not a certificate")?;
    Ok(Digest::of(parsed.public_key().raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_start_makes_what_a_second_start_keeps() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = Identity::open(dir.path(), &[], Clock::system()).expect("opens");
        let leaf = read(&dir.path().join("server.pem")).expect("reads");
        let second = Identity::open(dir.path(), &[], Clock::system()).expect("opens again");
        assert_eq!(first.ca_pin(), second.ca_pin());
        assert_eq!(leaf, read(&dir.path().join("server.pem")).expect("reads"));
        assert!(!second.renew().expect("checks"));
        assert_eq!(leaf.matches("BEGIN CERTIFICATE").count(), 2);
    }

    #[test]
    fn a_first_start_that_died_over_its_ca_is_begun_anew_and_a_lost_certificate_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        write_private(&dir.path().join("ca.key"), b"of a start that died").expect("writes");
        Identity::open(dir.path(), &[], Clock::system()).expect("opens");
        std::fs::remove_file(dir.path().join("ca.pem")).expect("removes");
        let error = Identity::open(dir.path(), &[], Clock::system()).expect_err("is refused");
        assert!(
            format!("{error:#}").contains("put the certificate back"),
            "{error:#}"
        );
    }

    #[test]
    fn a_new_public_address_gets_a_new_leaf_from_the_same_ca() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = Identity::open(dir.path(), &[], Clock::system()).expect("opens");
        let leaf = read(&dir.path().join("server.pem")).expect("reads");
        let names = ["fleet.example".to_owned(), "10.1.2.3".to_owned()];
        let second = Identity::open(dir.path(), &names, Clock::system()).expect("opens again");
        assert_eq!(first.ca_pin(), second.ca_pin());
        assert_ne!(leaf, read(&dir.path().join("server.pem")).expect("reads"));
    }

    #[test]
    fn certificates_say_when_they_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let identity = Identity::open(dir.path(), &[], Clock::system()).expect("opens");
        let ends = identity.ends();
        let days = |kind| {
            let (_, ends) = ends.iter().find(|(known, _)| *known == kind).expect(kind);
            let now = now(&Clock::system()).expect("a clock").unix_timestamp();
            (ends - now) / (24 * 3600)
        };
        assert!((89..=90).contains(&days("server")), "{ends:?}");
        assert!((7299..=7300).contains(&days("ca")), "{ends:?}");
        assert_eq!(ends.len(), 2);
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        Identity::open(dir.path(), &[], Clock::system()).expect("opens");
        for name in ["ca.key", "server.key"] {
            let mode = std::fs::metadata(dir.path().join(name)).expect("is there");
            assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{name}");
        }
    }
}
