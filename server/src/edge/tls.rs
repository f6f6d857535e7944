//! Certificates: a CA for twenty years, a leaf for ninety days that renews itself while the server
//! runs, and beside it one that somebody else made, where there is one.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use kernex_proto::ids::Digest;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

pub use self::given::GivenFiles;
use self::given::{Given, pins_our_ca};
use crate::{clock::Clock, crash::Act};

mod given;

const CA_LIFE: Duration = Duration::days(20 * 365);
const LEAF_LIFE: Duration = Duration::days(90);
const RENEW_BEFORE: Duration = Duration::days(30);
/// Certificates begin this long before now, because the clocks of peers may be behind.
const CLOCK_SLACK: Duration = Duration::days(1);

/// The server's identity on the wire, kept in the data folder.
#[derive(Debug)]
pub struct Identity {
    folder: PathBuf,
    names: Vec<String>,
    clock: Clock,
    leaf: Arc<Leaf>,
    ca_pem: String,
    ca_pin: Digest,
}

/// Hands rustls the newest leaf; swapped while handshakes go on.
#[derive(Debug)]
struct Leaf {
    own: ArcSwap<CertifiedKey>,
    /// For everybody who does not pin our CA.
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
    /// Loads what the folder holds and writes what is missing, due for renewal, or without one of
    /// the names.
    pub fn open(folder: &Path, public: &[String], clock: Clock) -> anyhow::Result<Self> {
        Self::open_with(folder, public, None, clock)
    }

    /// The same beside a certificate that somebody else made.
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

    /// SHA-256 of the CA's public key (SPKI DER): what enrolment tokens carry.
    #[must_use]
    pub fn ca_pin(&self) -> Digest {
        self.ca_pin
    }

    /// The CA certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Issues and loads a new leaf when the present one is due; says whether it did.
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

    /// Loads the certificate that somebody else made again when its files have changed; says
    /// whether it did.
    pub fn reload(&self) -> anyhow::Result<bool> {
        self.leaf.given.as_ref().map_or(Ok(false), Given::reload)
    }

    /// When its certificates end, in seconds since 1970, by what they are; see
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

/// SHA-256 of a certificate's public key, SPKI DER.
pub fn pin(certificate: &[u8]) -> anyhow::Result<Digest> {
    let (_, parsed) = X509Certificate::from_der(certificate).context("not a certificate")?;
    Ok(Digest::of(parsed.public_key().raw))
}

/// Writes a file that appears whole or not at all, readable by its owner only.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    // The temporary file is made with mode 0600.
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(folder)
        .with_context(failed)?;
    file.write_all(content).with_context(failed)?;
    file.as_file().sync_all().with_context(failed)?;
    Act::FilePrivate.before();
    file.persist(path).with_context(failed)?;
    Act::FilePrivate.after();
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(failed)
}

/// How the name of a private file begins that is being written.
const UNFINISHED: &str = ".private-";

/// Removes private files that an earlier process died over; there may be keys in them.
pub fn sweep_private(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

struct Files<'a>(&'a Path);

impl Files<'_> {
    fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }
    fn ca_key(&self) -> PathBuf {
        self.0.join("ca.key")
    }
    fn leaf(&self) -> PathBuf {
        self.0.join("server.pem")
    }
    fn leaf_key(&self) -> PathBuf {
        self.0.join("server.key")
    }
}

fn now(clock: &Clock) -> anyhow::Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(clock.now().0 / 1_000_000).context("the clock is off")
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What the certificate must name: this machine in every usual spelling, and what the operator
/// asked for.
fn names(public: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".into(), "127.0.0.1".into(), "::1".into()];
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    for name in public.iter().cloned().chain([host]) {
        let usable = !name.is_empty() && name.is_ascii() && name != "(none)";
        if usable && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn make_ca(files: &Files<'_>, at: OffsetDateTime) -> anyhow::Result<()> {
    // Without a leaf nothing was ever signed: a first start died between the two files, and nobody
    // knows that key.
    let is_known = files.leaf().exists() || files.leaf_key().exists();
    if files.ca_key().exists() && is_known {
        bail!(
            "{} is there without {}; put the certificate back or remove the key to start anew",
            files.ca_key().display(),
            files.ca().display()
        );
    }
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "Kernex CA");
    params.not_before = at - CLOCK_SLACK;
    params.not_after = at + CA_LIFE;
    let certificate = params.self_signed(&key)?;
    // The key goes first: a certificate without its key could never issue anything.
    write_private(&files.ca_key(), key.serialize_pem().as_bytes())?;
    write_private(&files.ca(), certificate.pem().as_bytes())
}

/// True when a leaf is missing, due, without one of the names, or from another CA. A leaf without
/// `ca.key` beside it was put there by somebody else and is left alone.
fn must_issue(files: &Files<'_>, names: &[String], at: OffsetDateTime) -> anyhow::Result<bool> {
    if !files.leaf().exists() || !files.leaf_key().exists() {
        return Ok(true);
    }
    let chain = read(&files.leaf())?;
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes())
        .with_context(|| format!("{} is not a PEM certificate", files.leaf().display()))?;
    let (_, leaf) = X509Certificate::from_der(&leaf)
        .with_context(|| format!("{} is not a certificate", files.leaf().display()))?;
    let due = leaf.validity().not_after.to_datetime() - at < RENEW_BEFORE;
    let ca = read(&files.ca())?;
    let foreign = !chain.trim_end().ends_with(ca.trim_end());
    let lacking = !names.iter().all(|name| covers(&leaf, name));
    if !(due || foreign || lacking) {
        return Ok(false);
    }
    if !files.ca_key().exists() {
        if due {
            tracing::warn!(
                "the server certificate ends soon and there is no CA key here to renew it"
            );
        }
        return Ok(false);
    }
    Ok(true)
}

fn covers(leaf: &X509Certificate<'_>, name: &str) -> bool {
    let Ok(Some(names)) = leaf.subject_alternative_name() else {
        return false;
    };
    names
        .value
        .general_names
        .iter()
        .any(|entry| match (entry, name.parse()) {
            (GeneralName::DNSName(dns), Err(_)) => *dns == name,
            (GeneralName::IPAddress(bytes), Ok(std::net::IpAddr::V4(ip))) => ip.octets() == **bytes,
            (GeneralName::IPAddress(bytes), Ok(std::net::IpAddr::V6(ip))) => ip.octets() == **bytes,
            _ => false,
        })
}

fn issue(files: &Files<'_>, names: &[String], at: OffsetDateTime) -> anyhow::Result<()> {
    let ca_pem = read(&files.ca())?;
    let ca_key = KeyPair::from_pem(&read(&files.ca_key())?)
        .with_context(|| format!("{} is not a private key", files.ca_key().display()))?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    for name in names {
        let entry = match name.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(
                name.as_str()
                    .try_into()
                    .with_context(|| format!("`{name}` cannot stand in a certificate"))?,
            ),
        };
        params.subject_alt_names.push(entry);
    }
    params
        .distinguished_name
        .push(DnType::CommonName, "Kernex server");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = at - CLOCK_SLACK;
    params.not_after = at + LEAF_LIFE;
    let leaf = params.signed_by(&key, &issuer)?;
    // Leaf and CA travel together: an agent that enrols meets the CA here and compares it with its
    // token's pin.
    let chain = format!("{}{}", leaf.pem(), ca_pem);
    write_private(&files.leaf_key(), key.serialize_pem().as_bytes())?;
    write_private(&files.leaf(), chain.as_bytes())
}

fn load(files: &Files<'_>) -> anyhow::Result<CertifiedKey> {
    let chain = CertificateDer::pem_file_iter(files.leaf())
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read {}", files.leaf().display()))?;
    let key = PrivateKeyDer::from_pem_file(files.leaf_key())
        .with_context(|| format!("cannot read {}", files.leaf_key().display()))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).with_context(|| {
        format!(
            "{} and {} do not belong together",
            files.leaf().display(),
            files.leaf_key().display()
        )
    })
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
    fn an_unfinished_private_file_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        write_private(&dir.path().join("ca.key"), b"k").expect("writes");
        std::fs::write(dir.path().join(".private-Xy1"), "k").expect("writes");
        sweep_private(dir.path()).expect("sweeps");
        let left = std::fs::read_dir(dir.path()).expect("reads");
        let names: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["ca.key"]);
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
