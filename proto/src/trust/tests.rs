//! Chains, names, fingerprints and rotation, at clocks that are far off.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};

pub(super) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn leaf(&self, name: &str) -> CertificateDer<'static> {
        self.leaf_for(name, vec![ExtendedKeyUsagePurpose::ServerAuth])
    }

    fn leaf_for(
        &self,
        name: &str,
        purposes: Vec<ExtendedKeyUsagePurpose>,
    ) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 2, 1);
        params.not_after = date_time_ymd(2020, 5, 1);
        params.extended_key_usages = purposes;
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.0).unwrap().der().clone()
    }

    pub(super) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    fn pin(&self) -> Digest {
        fingerprint(&self.der()).unwrap()
    }
}

fn verify(
    verifier: &PinnedCa,
    leaf: &CertificateDer<'_>,
    ca: &CertificateDer<'_>,
    at: u64,
) -> Result<(), Error> {
    let name = ServerName::try_from("kernex.test").unwrap();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
    verifier
        .verify_server_cert(leaf, std::slice::from_ref(ca), &name, &[], now)
        .map(drop)
}

/// 1970 and 2099.
const CLOCKS: [u64; 2] = [0, 4_070_908_800];

#[test]
fn dates_do_not_count() {
    let ca = Ca::new();
    let leaf = ca.leaf("kernex.test");
    for at in CLOCKS {
        let pinned = PinnedCa::from_pem(&to_pem(&ca.der()), Dates::Ignored).unwrap();
        verify(&pinned, &leaf, &ca.der(), at).unwrap();
    }
}

#[test]
fn dates_count_for_operators() {
    let ca = Ca::new();
    let pinned = PinnedCa::from_pem(&to_pem(&ca.der()), Dates::Count).unwrap();
    let (within, [early, late]) = (1_583_020_800, CLOCKS);
    let table = [
        (within, Ok(())),
        (early, Err(CertificateError::NotValidYet)),
        (late, Err(CertificateError::Expired)),
    ];
    for (at, expected) in table {
        let found = verify(&pinned, &ca.leaf("kernex.test"), &ca.der(), at);
        assert_eq!(found, expected.map_err(Error::InvalidCertificate), "{at}");
    }
}

#[test]
fn a_leaf_that_is_not_for_servers_is_refused() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
    let ca = Ca::new();
    let invalid = Err(Error::InvalidCertificate(CertificateError::InvalidPurpose));
    let table = [
        (vec![], invalid.clone()),
        (vec![ClientAuth], invalid.clone()),
        (vec![Any], invalid),
        (vec![ClientAuth, ServerAuth], Ok(())),
    ];
    for (purposes, expected) in table {
        let leaf = ca.leaf_for("kernex.test", purposes.clone());
        let pinned = PinnedCa::from_pem(&to_pem(&ca.der()), Dates::Ignored).unwrap();
        let pin = PinnedCa::from_fingerprint(ca.pin());
        for verifier in [pinned, pin] {
            assert_eq!(
                verify(&verifier, &leaf, &ca.der(), CLOCKS[0]),
                expected,
                "{purposes:?}"
            );
        }
    }
}

#[test]
fn the_fingerprint_learns_the_ca() {
    let ca = Ca::new();
    let verifier = PinnedCa::from_fingerprint(ca.pin());
    assert_eq!(verifier.learnt_pem(), None);
    verify(&verifier, &ca.leaf("kernex.test"), &ca.der(), 0).unwrap();
    let learnt = verifier.learnt_pem().unwrap();
    assert_eq!(parse_pem(&learnt).unwrap(), [ca.der()]);
    assert_eq!(pin_of(&learnt), Some(ca.pin()));
    assert_eq!(pin_of("no certificate"), None);
}

#[test]
fn another_ca_is_refused_even_when_it_comes_along() {
    let (ca, other) = (Ca::new(), Ca::new());
    let leaf = other.leaf("kernex.test");
    let pinned = PinnedCa::from_pem(&to_pem(&ca.der()), Dates::Ignored).unwrap();
    let pin = PinnedCa::from_fingerprint(ca.pin());
    for intermediate in [ca.der(), other.der()] {
        assert!(verify(&pinned, &leaf, &intermediate, 0).is_err());
        assert!(verify(&pin, &leaf, &intermediate, 0).is_err());
    }
    assert_eq!(pin.learnt_pem(), None);
}

#[test]
fn another_name_is_refused() {
    let ca = Ca::new();
    let pinned = PinnedCa::from_pem(&to_pem(&ca.der()), Dates::Ignored).unwrap();
    let refused = verify(&pinned, &ca.leaf("other.test"), &ca.der(), 0);
    let Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
        presented, ..
    })) = &refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(presented, &[r#"DnsName("other.test")"#]);
}

#[test]
fn a_trust_bundle_needs_the_signature_of_the_old_key() {
    use rcgen::SigningKey as _;
    let (ca, next) = (Ca::new(), Ca::new());
    let (old, bundle) = (to_pem(&ca.der()), to_pem(&next.der()));
    let good = ca.0.key().sign(bundle.as_bytes()).unwrap();
    let bad = next.0.key().sign(bundle.as_bytes()).unwrap();
    assert!(rotation_is_signed(&old, &bundle, &good));
    assert!(!rotation_is_signed(&old, &bundle, &bad));
    assert!(!rotation_is_signed(&old, "not a certificate", &good));
}
