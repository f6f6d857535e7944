//! Trust in the certificate authorities of this machine, for control planes with a certificate of
//! one of them.
//!
//! Operators have it when they ask for it, and their own clock counts. Agents have it only where
//! the text of their enrolment token says so. An agent's clock may be anywhere, so the newest
//! instant that the server has told counts instead: a certificate that had expired then is refused,
//! and one that begins later is taken. The name is the one in the token, whatever address is
//! dialled.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// This machine's certificate authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SystemRootsError {
    #[error(
        "this machine has no certificate authorities to trust; install its package `ca-certificates`, or name a \
         file or folder of them in SSL_CERT_FILE or SSL_CERT_DIR"
    )]
    None,
    #[error("this machine's certificate authorities cannot be used: {0}")]
    Unusable(String),
    #[error("`{0}` is not a name that a certificate can have")]
    Name(String),
}

/// Verifies a server's certificate against the authorities of this machine.
#[derive(Debug)]
pub struct SystemRoots {
    verifier: Arc<WebPkiServerVerifier>,
    /// The name that counts, instead of the one that was dialled.
    name: Option<ServerName<'static>>,
    /// The newest instant that the server has told; `None` takes this machine's clock.
    newest: Option<UnixTime>,
}

impl SystemRoots {
    /// The authorities that this machine trusts now, by its own clock. Reads files.
    pub fn load() -> Result<Self, SystemRootsError> {
        let found = rustls_native_certs::load_native_certs();
        Self::of(found.certs)
    }

    /// The same for this name only, at an instant in seconds since 1970.
    pub fn load_pinned(name: &str, newest: u64) -> Result<Self, SystemRootsError> {
        Self::load()?.pinned(name, newest)
    }

    fn of(
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, SystemRootsError> {
        let mut roots = RootCertStore::empty();
        let (added, _unreadable) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(SystemRootsError::None);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| SystemRootsError::Unusable(error.to_string()))?;
        Ok(Self {
            verifier,
            name: None,
            newest: None,
        })
    }

    fn pinned(self, name: &str, newest: u64) -> Result<Self, SystemRootsError> {
        let parsed = ServerName::try_from(name.to_owned())
            .map_err(|_| SystemRootsError::Name(name.to_owned()))?;
        Ok(Self {
            name: Some(parsed),
            newest: Some(UnixTime::since_unix_epoch(Duration::from_secs(newest))),
            ..self
        })
    }
}

impl ServerCertVerifier for SystemRoots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = self.name.as_ref().unwrap_or(dialled);
        let mut at = self.newest.unwrap_or(now);
        // The check is repeated where a certificate begins; a chain is a few certificates long.
        for _ in 0..8 {
            let verified = self.verifier.verify_server_cert(
                end_entity,
                intermediates,
                name,
                ocsp_response,
                at,
            );
            match verified {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before,
                    ..
                })) if self.newest.is_some() && not_before > at => at = not_before,
                verified => return verified,
            }
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYet))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Ca;
    use super::*;

    fn verify(roots: &SystemRoots, leaf: &CertificateDer<'_>, dialled: &str, at: u64) -> bool {
        let dialled = ServerName::try_from(dialled.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(at));
        roots
            .verify_server_cert(leaf, &[], &dialled, &[], now)
            .is_ok()
    }

    /// Within the life of the leaf, before it, and after it.
    const MARCH: u64 = 1_583_020_800;
    const BEFORE: u64 = MARCH - 60 * 24 * 3600;
    const AFTER: u64 = MARCH + 90 * 24 * 3600;

    #[test]
    fn operators_go_by_their_clock_and_by_the_name_they_dialled() {
        let ca = Ca::new();
        let leaf = ca.leaf("kernex.test");
        let roots = SystemRoots::of([ca.der()]).unwrap();
        assert!(verify(&roots, &leaf, "kernex.test", MARCH));
        assert!(!verify(&roots, &leaf, "other.test", MARCH));
        assert!(!verify(&roots, &leaf, "kernex.test", BEFORE));
        assert!(!verify(&roots, &leaf, "kernex.test", AFTER));
        let strange = SystemRoots::of([Ca::new().der()]).unwrap();
        assert!(!verify(&strange, &leaf, "kernex.test", MARCH));
    }

    #[test]
    fn agents_go_by_the_newest_instant_they_were_told_and_by_the_name_in_their_token() {
        let ca = Ca::new();
        let leaf = ca.leaf("kernex.test");
        let at = |newest| {
            let roots = SystemRoots::of([ca.der()]).unwrap();
            roots.pinned("kernex.test", newest).unwrap()
        };
        for clock in [0, MARCH, 4_070_908_800] {
            assert!(verify(&at(MARCH), &leaf, "10.0.0.7", clock), "{clock}");
            assert!(verify(&at(BEFORE), &leaf, "kernex.test", clock), "{clock}");
            assert!(!verify(&at(AFTER), &leaf, "kernex.test", clock), "{clock}");
        }
        let roots = SystemRoots::of([ca.der()]).unwrap();
        let other = roots.pinned("other.test", MARCH).unwrap();
        assert!(!verify(&other, &leaf, "other.test", MARCH));
    }

    #[test]
    fn a_machine_without_authorities_says_what_to_install() {
        let error = SystemRoots::of([]).unwrap_err();
        assert!(error.to_string().contains("ca-certificates"), "{error}");
    }
}
