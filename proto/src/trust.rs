//! Trust in the control plane: its CA is pinned, and no other certificate is accepted.
//!
//! The chain has to lead to the pinned CA, the leaf has to be made for servers (`serverAuth`), and
//! its name has to be the one we dialled. A device may boot in 1970 or in 2099, so agents ignore
//! the dates in certificates; operators do not. Before the first enrolment there is no pinned CA,
//! only its fingerprint in the token: then the CA is taken from the handshake itself and compared
//! with that.

use std::sync::Arc;

pub use self::system::{SystemRoots, SystemRootsError};
use parking_lot::Mutex;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, spki_for_anchor};

use crate::{handshake::CA_HINT, ids::Digest};

/// A way to know a server by its certificate.
pub type ServerTrust = Arc<dyn ServerCertVerifier>;

/// The purpose `serverAuth`, 1.3.6.1.5.5.7.3.1, as certificates carry it.
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];

/// Whether the dates in certificates count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dates {
    /// A certificate that is over, or has not begun, is refused.
    Count,
    /// For devices, whose clocks may be anywhere.
    Ignored,
}

/// What is known about the server's CA.
#[derive(Debug)]
enum Trust {
    /// These CA certificates, from an earlier enrolment.
    Pinned(Vec<CertificateDer<'static>>),
    /// The CA whose public key has this digest; learnt once seen.
    Fingerprint(Digest, Mutex<Option<CertificateDer<'static>>>),
}

/// Verifies the server's certificate against the pinned CA.
#[derive(Debug)]
pub struct PinnedCa {
    trust: Trust,
    dates: Dates,
    algorithms: WebPkiSupportedAlgorithms,
    /// Told to the server, which may have another certificate for peers that do not pin its CA.
    hint: [DistinguishedName; 1],
}

impl PinnedCa {
    /// Trusts the CA certificates of a PEM text; `None` when it holds none or they cannot be read.
    #[must_use]
    pub fn from_pem(pem: &str, dates: Dates) -> Option<Arc<Self>> {
        let certs = parse_pem(pem)?;
        Some(Self::new(Trust::Pinned(certs), dates))
    }

    /// Trusts whichever CA has the fingerprint: SHA-256 of its public key, SPKI DER. Dates are
    /// ignored.
    #[must_use]
    pub fn from_fingerprint(pin: Digest) -> Arc<Self> {
        Self::new(Trust::Fingerprint(pin, Mutex::new(None)), Dates::Ignored)
    }

    fn new(trust: Trust, dates: Dates) -> Arc<Self> {
        Arc::new(Self {
            trust,
            dates,
            algorithms: aws_lc_rs::default_provider().signature_verification_algorithms,
            hint: [CA_HINT.to_vec().into()],
        })
    }

    /// The CA that matched the fingerprint, PEM.
    #[must_use]
    pub fn learnt_pem(&self) -> Option<String> {
        match &self.trust {
            Trust::Pinned(_) => None,
            Trust::Fingerprint(_, learnt) => learnt.lock().as_ref().map(|cert| to_pem(cert)),
        }
    }

    fn verify_chain(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        ca: &[CertificateDer<'_>],
        mut time: UnixTime,
    ) -> Result<(), Error> {
        let anchors = ca
            .iter()
            .map(anchor_from_trusted_cert)
            .collect::<Result<Vec<_>, _>>()
            .map_err(bad_certificate)?;
        // The library always checks dates. Its error says which instant would be valid, so the
        // check is repeated at that instant; a chain of two needs two repetitions at most.
        for _ in 0..4 {
            match leaf.verify_for_usage(
                self.algorithms.all,
                &anchors,
                intermediates,
                time,
                KeyUsage::required(SERVER_AUTH),
                None,
                None,
            ) {
                Ok(_) => return Ok(()),
                Err(err) if self.dates == Dates::Count => return Err(bad_certificate(err)),
                Err(webpki::Error::CertExpired { not_after, .. }) => time = not_after,
                Err(webpki::Error::CertNotValidYet { not_before, .. }) => time = not_before,
                Err(err) => return Err(bad_certificate(err)),
            }
        }
        Err(Error::InvalidCertificate(CertificateError::BadEncoding))
    }
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = EndEntityCert::try_from(end_entity).map_err(bad_certificate)?;
        match &self.trust {
            Trust::Pinned(ca) => self.verify_chain(&leaf, intermediates, ca, now)?,
            Trust::Fingerprint(pin, learnt) => {
                let ca = intermediates
                    .last()
                    .filter(|ca| fingerprint(ca) == Some(*pin))
                    .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                self.verify_chain(&leaf, intermediates, std::slice::from_ref(ca), now)?;
                *learnt.lock() = Some(ca.clone().into_owned());
            }
        }
        leaf.verify_is_valid_for_subject_name(server_name)
            .map_err(bad_certificate)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        Some(&self.hint)
    }
}

/// Whether one of the CA certificates of `trusted_pem` signed `bundle_pem`, which is to replace
/// them.
#[must_use]
pub fn rotation_is_signed(trusted_pem: &str, bundle_pem: &str, signature: &[u8]) -> bool {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let Some(trusted) = parse_pem(trusted_pem) else {
        return false;
    };
    parse_pem(bundle_pem).is_some()
        && trusted.iter().any(|cert| {
            EndEntityCert::try_from(cert).is_ok_and(|ca| {
                algorithms.all.iter().any(|algorithm| {
                    ca.verify_signature(*algorithm, bundle_pem.as_bytes(), signature)
                        .is_ok()
                })
            })
        })
}

/// The fingerprint by which the CA of a PEM text is pinned, the first one when there are several;
/// `None` when there is none.
#[must_use]
pub fn pin_of(pem: &str) -> Option<Digest> {
    fingerprint(parse_pem(pem)?.first()?)
}

fn fingerprint(ca: &CertificateDer<'_>) -> Option<Digest> {
    let anchor = anchor_from_trusted_cert(ca).ok()?;
    Some(Digest::of(&spki_for_anchor(&anchor)))
}

fn parse_pem(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .ok()?;
    (!certs.is_empty()).then_some(certs)
}

fn to_pem(cert: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(cert);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn bad_certificate(err: webpki::Error) -> Error {
    Error::InvalidCertificate(match err {
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::BadDer => CertificateError::BadEncoding,
        webpki::Error::CertNotValidForName(names) => CertificateError::NotValidForNameContext {
            expected: names.expected,
            presented: names.presented,
        },
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    })
}

mod system;
#[cfg(test)]
mod tests;
