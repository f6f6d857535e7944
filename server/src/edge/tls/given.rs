//! A certificate that somebody else made, such as a public or a company's authority, for peers that
//! do not pin the server's own CA. It is renewed by replacing its files, which are checked now and
//! then.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use kernex_proto::{handshake::CA_HINT, ids::Digest};
use parking_lot::Mutex;
use rustls::{crypto::aws_lc_rs, server::ClientHello, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenFiles {
    /// PEM: the certificate, then those that lead to its authority.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// The certificate as it was read last.
#[derive(Debug)]
pub(super) struct Given {
    files: GivenFiles,
    current: ArcSwap<CertifiedKey>,
    /// Digest of the files when they were read last, whether they could be used or not.
    seen: Mutex<Digest>,
}

impl Given {
    pub(super) fn load(files: GivenFiles) -> anyhow::Result<Self> {
        let content = FileContent::read(&files)?;
        Ok(Self {
            current: ArcSwap::from_pointee(content.parse(&files)?),
            seen: Mutex::new(content.digest()),
            files,
        })
    }

    pub(super) fn current(&self) -> Arc<CertifiedKey> {
        self.current.load_full()
    }

    /// Reads the files again. True when they have changed. Files that cannot be used are an error
    /// once, and the certificate that was read before stays.
    pub(super) fn reload(&self) -> anyhow::Result<bool> {
        let content = FileContent::read(&self.files)?;
        let digest = content.digest();
        if std::mem::replace(&mut *self.seen.lock(), digest) == digest {
            return Ok(false);
        }
        self.current.store(Arc::new(content.parse(&self.files)?));
        Ok(true)
    }
}

/// Whether a peer pins the CA that the server made.
pub(super) fn pins_our_ca(hello: &ClientHello<'_>) -> bool {
    let accepted = hello.certificate_authorities().unwrap_or_default();
    accepted.iter().any(|name| name.as_ref() == CA_HINT)
}

struct FileContent {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl FileContent {
    fn read(files: &GivenFiles) -> anyhow::Result<Self> {
        let read = |path: &Path, flag: &str| {
            fs::read(path).with_context(|| format!("cannot read {flag} {}", path.display()))
        };
        Ok(Self {
            certificate: read(&files.certificate, "--tls-cert")?,
            key: read(&files.key, "--tls-key")?,
        })
    }

    fn digest(&self) -> Digest {
        let both = [Digest::of(&self.certificate).0, Digest::of(&self.key).0].concat();
        Digest::of(&both)
    }

    fn parse(&self, files: &GivenFiles) -> anyhow::Result<CertifiedKey> {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .filter(|chain| !chain.is_empty())
            .with_context(|| format!("--tls-cert {certificate} has no certificate in PEM"))?;
        let private = PrivateKeyDer::from_pem_slice(&self.key)
            .with_context(|| format!("--tls-key {key} has no private key in PEM"))?;
        CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()).with_context(|| {
            format!("--tls-cert {certificate} and --tls-key {key} do not belong together")
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn write(files: &GivenFiles, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let made = params.self_signed(&key).expect("a certificate");
        fs::write(&files.certificate, made.pem()).expect("writes");
        fs::write(&files.key, key.serialize_pem()).expect("writes");
    }

    #[test]
    fn what_replaces_the_files_is_used_and_what_cannot_be_is_an_error_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let files = GivenFiles {
            certificate: dir.path().join("tls.pem"),
            key: dir.path().join("tls.key"),
        };
        let missing = Given::load(files.clone()).expect_err("is not there");
        assert!(format!("{missing:#}").contains("--tls-cert"), "{missing:#}");
        write(&files, "one.example");
        let given = Given::load(files.clone()).expect("loads");
        let leaf = || given.current().cert[0].clone();
        let first = leaf();
        assert!(!given.reload().expect("looks"));
        write(&files, "two.example");
        assert!(given.reload().expect("reloads"));
        let second = leaf();
        assert_ne!(first, second);

        let other = KeyPair::generate().expect("a key").serialize_pem();
        fs::write(&files.key, other).expect("writes");
        let error = given.reload().expect_err("they do not fit");
        assert!(
            format!("{error:#}").contains("belong together"),
            "{error:#}"
        );
        assert!(!given.reload().expect("is told once"));
        assert_eq!(leaf(), second, "the last good one stays");
        fs::write(&files.certificate, "nonsense").expect("writes");
        assert!(given.reload().is_err());
    }
}
