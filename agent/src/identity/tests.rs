use super::*;
use std::os::unix::fs::PermissionsExt as _;

#[tokio::test]
async fn the_key_is_made_once_and_its_signatures_verify_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let key = DeviceKey::load_or_generate(dir.path()).unwrap();
    let again = DeviceKey::load_or_generate(dir.path()).unwrap();
    assert_eq!(key.digest(), again.digest());
    let mode = fs::metadata(dir.path().join("device.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let signature = again.sign(b"transcript".to_vec()).await.unwrap();
    let verifier = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::RSA_PSS_2048_8192_SHA256,
        key.public_der(),
    );
    verifier.verify(b"transcript", &signature).unwrap();
    assert!(verifier.verify(b"transcripT", &signature).is_err());
}

#[test]
fn a_damaged_key_is_reported_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device.key");
    fs::write(&path, "nonsense").unwrap();
    let err = DeviceKey::load_or_generate(dir.path()).unwrap_err();
    assert!(matches!(err, IdentityError::BadKey(_)), "{err}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
}

fn edge_1() -> Identity {
    Identity {
        device: DeviceId::generate(),
        name: "edge-1".into(),
        server: "https://localhost:7443".into(),
        cluster: ClusterId::generate(),
        ca_pem: "pem".into(),
        webpki: None,
        protocol_revision: 2,
    }
}

#[test]
fn a_key_that_an_enrolled_device_lost_is_reported_and_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    check(dir.path()).expect("nothing is enrolled yet");
    edge_1().save(dir.path()).unwrap();
    let gone = DeviceKey::load_or_generate(dir.path()).unwrap_err();
    assert!(matches!(gone, IdentityError::KeyGone { .. }), "{gone}");
    assert!(!dir.path().join("device.key").exists());
    assert_eq!(check(dir.path()).unwrap_err().to_string(), gone.to_string());
    let next = gone.next_step().unwrap();
    for part in ["--new-key", "--replace edge-1", "--state-dir"] {
        assert!(next.contains(part), "{part}: {next}");
    }

    // A damaged one is no better.
    fs::write(dir.path().join("device.key"), "nonsense").unwrap();
    let damaged = check(dir.path()).unwrap_err();
    assert!(matches!(damaged, IdentityError::BadKey(_)), "{damaged}");
    assert_eq!(damaged.next_step(), Some(next));

    fs::remove_file(dir.path().join("device.key")).unwrap();
    fs::write(dir.path().join("device.json"), "{").unwrap();
    let unknown = DeviceKey::load_or_generate(dir.path()).unwrap_err();
    assert!(matches!(unknown, IdentityError::BadDevice(..)), "{unknown}");
    let next = unknown.next_step().unwrap();
    assert!(next.contains("move it away"), "{next}");
}

#[test]
fn the_identity_survives_its_file() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap(), None);
    let identity = edge_1();
    identity.save(dir.path()).unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap(), Some(identity.clone()));

    // As an older agent wrote it.
    let path = Identity::path(dir.path());
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace(",\n  \"protocol_revision\": 2", "");
    fs::write(&path, text).unwrap();
    let expected = Identity {
        protocol_revision: 0,
        ..identity
    };
    assert_eq!(Identity::load(dir.path()).unwrap(), Some(expected));
}

#[test]
fn the_newest_instant_told_only_grows() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity {
        device: DeviceId::generate(),
        name: "edge-1".into(),
        server: "https://kernex.example:7443".into(),
        cluster: ClusterId::generate(),
        ca_pem: String::new(),
        webpki: Some(WebPki {
            name: "kernex.example".into(),
            since: 100,
        }),
        protocol_revision: 2,
    };
    identity.save(dir.path()).unwrap();
    let since = |told| {
        Identity::remember_time(dir.path(), told).unwrap();
        let stored = Identity::load(dir.path()).unwrap().unwrap();
        stored.webpki.unwrap().since
    };
    assert_eq!([since(300), since(200)], [300, 300]);
}
