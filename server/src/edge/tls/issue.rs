//! Makes the server's own certificates: the CA once, and the leaf again when it is due.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::private_file::write_private;

const CA_LIFE: Duration = Duration::days(20 * 365);
const LEAF_LIFE: Duration = Duration::days(90);
const RENEW_BEFORE: Duration = Duration::days(30);
/// Certificates are valid from so long before now, because the clocks of peers may be behind.
const CLOCK_SLACK: Duration = Duration::days(1);

/// The files of the server's own certificates.
pub(super) struct Files<'a>(pub(super) &'a Path);

impl Files<'_> {
    pub(super) fn ca(&self) -> PathBuf {
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

pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The names in the certificate: this machine in all usual spellings, and what the operator asked
/// for.
pub(super) fn names(public: &[String]) -> Vec<String> {
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

pub(super) fn make_ca(files: &Files<'_>, at: OffsetDateTime) -> anyhow::Result<()> {
    // Without a leaf this key has signed nothing, and nobody knows it: a first start died between
    // the two files.
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

/// Whether a leaf has to be issued: it is missing, due, lacks a name, or is from another CA. A leaf
/// without `ca.key` beside it was put there by somebody else, and stays.
pub(super) fn must_issue(
    files: &Files<'_>,
    names: &[String],
    at: OffsetDateTime,
) -> anyhow::Result<bool> {
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

pub(super) fn issue(files: &Files<'_>, names: &[String], at: OffsetDateTime) -> anyhow::Result<()> {
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
    // The leaf comes with its CA. An agent that enrols sees the CA here, and compares it with the
    // pin of its token.
    let chain = format!("{}{}", leaf.pem(), ca_pem);
    write_private(&files.leaf_key(), key.serialize_pem().as_bytes())?;
    write_private(&files.leaf(), chain.as_bytes())
}

pub(super) fn load(files: &Files<'_>) -> anyhow::Result<CertifiedKey> {
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
