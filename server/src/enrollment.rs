//! How a device gets in: its key, the proof that it has it, and the token that lets it in.

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kernex_proto::{
    handshake::{DEVICE_KEY_BITS, EnrollTranscript, NONCE_LEN},
    ids::{ClusterId, Digest, TokenId, check_name},
    v1,
};
use x509_parser::{
    prelude::{FromDer as _, SubjectPublicKeyInfo},
    public_key::PublicKey,
};

use crate::{
    revocations::Cause,
    signature::signature_holds,
    store::{BindKeyError, EnrollDevice, Store, StoreError},
};

/// Why a request to enrol was refused.
#[derive(Debug, thiserror::Error)]
pub enum EnrollmentError {
    #[error("{field}: {why}")]
    Malformed { field: &'static str, why: String },
    /// A proof failed. The caller learns no more than that.
    #[error("not authenticated: {0}")]
    NotAuthenticated(&'static str),
    /// The token works no more, and the caller has its secret. The text is the rest of a sentence.
    #[error("the enrolment token {0}")]
    TokenEnded(&'static str),
    /// The key was revoked, and the caller has proved to hold it.
    #[error("the key is revoked")]
    KeyRevoked {
        cause: Cause,
        /// Name of the device that had the key.
        device_name: String,
    },
    /// Another device has the name.
    #[error("the device name `{0}` is held by another key")]
    NameTaken(String),
    #[error("the store failed")]
    Store(#[source] StoreError),
}

/// Checks the request and binds its key to a device.
pub async fn enroll(
    store: &Store,
    cluster: ClusterId,
    request: v1::EnrollRequest,
    address: IpAddr,
) -> Result<v1::EnrollResponse, EnrollmentError> {
    let mut device = check(cluster, request)?;
    device.address = Some(address);
    let enrolled = store.enroll(device).await.map_err(|error| match error {
        BindKeyError::NotAuthenticated(why) => EnrollmentError::NotAuthenticated(why),
        BindKeyError::TokenEnded(why) => EnrollmentError::TokenEnded(why),
        BindKeyError::KeyRevoked { cause, device_name } => {
            EnrollmentError::KeyRevoked { cause, device_name }
        }
        BindKeyError::NameTaken(name) => EnrollmentError::NameTaken(name),
        BindKeyError::Store(error) => EnrollmentError::Store(error),
    })?;
    tracing::info!(device = %enrolled.device, name = enrolled.name, "device enrolled");
    Ok(v1::EnrollResponse {
        device_id: enrolled.device.to_string(),
        device_name: enrolled.name,
        cluster_id: cluster.to_string(),
    })
}

fn check(cluster: ClusterId, request: v1::EnrollRequest) -> Result<EnrollDevice, EnrollmentError> {
    let bad = |field, why: &str| EnrollmentError::Malformed {
        field,
        why: why.to_owned(),
    };
    let token: TokenId = request
        .token_id
        .parse()
        .map_err(|_| bad("token_id", "it has to be a UUID"))?;
    let secret = URL_SAFE_NO_PAD
        .decode(&request.token_secret)
        .map_err(|_| bad("token_secret", "it has to be base64url without padding"))?;
    if request.nonce.len() != NONCE_LEN {
        return Err(bad("nonce", "it has to be 32 bytes"));
    }
    check_key(&request.public_key)?;
    let key = Digest::of(&request.public_key);
    let transcript = EnrollTranscript {
        cluster,
        token,
        key,
        nonce: &request.nonce,
    };
    if !signature_holds(&request.public_key, &transcript.bytes(), &request.signature) {
        return Err(EnrollmentError::NotAuthenticated("bad signature"));
    }
    let inventory = request.inventory.unwrap_or_default();
    let wished = if request.device_name.is_empty() {
        &inventory.hostname
    } else {
        &request.device_name
    };
    check_name("device name", wished).map_err(|error| EnrollmentError::Malformed {
        field: "device_name",
        why: error.to_string(),
    })?;
    Ok(EnrollDevice {
        token,
        secret_hash: Digest::of(&secret),
        key_der: request.public_key.to_vec(),
        key,
        name: wished.clone(),
        inventory,
        address: None,
    })
}

/// The public exponent of device keys. With a small one a verifier that errs accepts forged
/// signatures more easily.
const EXPONENT: u64 = 65537;

/// A device key is RSA with 4096 bits and the exponent 65537, in exactly one encoding, because its
/// digest names the device.
fn check_key(der: &[u8]) -> Result<(), EnrollmentError> {
    let bad = |why: String| EnrollmentError::Malformed {
        field: "public_key",
        why,
    };
    let (rest, info) = SubjectPublicKeyInfo::from_der(der)
        .map_err(|_| bad("it has to be a public key in SPKI DER".into()))?;
    if !rest.is_empty() {
        return Err(bad("bytes follow the key".into()));
    }
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => match bits(key.modulus) {
            DEVICE_KEY_BITS if key.try_exponent() == Ok(EXPONENT) => Ok(()),
            DEVICE_KEY_BITS => Err(bad(format!("its exponent has to be {EXPONENT}"))),
            bits => Err(bad(format!(
                "it has {bits} bits and has to have {DEVICE_KEY_BITS}"
            ))),
        },
        _ => Err(bad("it has to be an RSA key".into())),
    }
}

/// Bits of a big-endian number, without zeros in front.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    match &number[zeros..] {
        [] => 0,
        [first, rest @ ..] => rest.len() * 8 + 8 - first.leading_zeros() as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsa::{
        PrivateKey,
        pkcs8::EncodePublicKey as _,
        pss::SigningKey,
        sha2::Sha256,
        signature::{RandomizedSigner as _, SignatureEncoding as _},
    };

    fn signed(cluster: ClusterId, key: &PrivateKey) -> v1::EnrollRequest {
        let der = key.to_public_key().to_public_key_der().expect("encodes");
        let token = TokenId::generate();
        let nonce = [3; NONCE_LEN];
        let transcript = EnrollTranscript {
            cluster,
            token,
            key: Digest::of(der.as_bytes()),
            nonce: &nonce,
        };
        let signature = SigningKey::<Sha256>::new(key.clone())
            .sign_with_rng(&mut rand::rng(), &transcript.bytes());
        v1::EnrollRequest {
            token_id: token.to_string(),
            token_secret: URL_SAFE_NO_PAD.encode([1; 32]),
            public_key: der.into_vec().into(),
            device_name: "edge-1".into(),
            nonce: nonce.to_vec().into(),
            signature: signature.to_vec().into(),
            inventory: None,
        }
    }

    #[test]
    fn the_key_has_to_be_proved_and_of_the_right_size() {
        let cluster = ClusterId::generate();
        let key = PrivateKey::new(&mut rand::rng(), DEVICE_KEY_BITS).expect("a key");
        let request = signed(cluster, &key);
        let device = check(cluster, request.clone()).expect("good");
        assert_eq!(device.name, "edge-1");
        assert_eq!(device.secret_hash, Digest::of(&[1; 32]));

        let elsewhere = check(ClusterId::generate(), request.clone());
        assert!(matches!(
            elsewhere,
            Err(EnrollmentError::NotAuthenticated(_))
        ));
        let nameless = v1::EnrollRequest {
            device_name: String::new(),
            ..request
        };
        let refused = check(cluster, nameless);
        assert!(
            matches!(
                refused,
                Err(EnrollmentError::Malformed {
                    field: "device_name",
                    ..
                })
            ),
            "{refused:?}"
        );
    }

    #[test]
    fn a_key_has_exactly_4096_bits_and_the_usual_exponent() {
        let mut rng = rand::rng();
        let small = PrivateKey::new(&mut rng, 2048).expect("a key");
        let short = PrivateKey::new(&mut rng, DEVICE_KEY_BITS - 1).expect("a key");
        let three = rsa::BoxedUint::from(3_u32);
        let three = PrivateKey::new_with_exp(&mut rng, DEVICE_KEY_BITS, three).expect("a key");
        for (key, expected) in [
            (small, "2048 bits"),
            (short, "4095 bits"),
            (three, "its exponent has to be 65537"),
        ] {
            let refused = check(ClusterId::generate(), signed(ClusterId::generate(), &key));
            let Err(EnrollmentError::Malformed { field, why }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(field, "public_key");
            assert!(why.contains(expected), "{why}");
        }
    }

    #[test]
    fn bits_are_counted_from_the_highest_one() {
        let table: [(&[u8], usize); 5] = [
            (&[], 0),
            (&[0, 0], 0),
            (&[1], 1),
            (&[0, 0x80], 8),
            (&[1, 0], 9),
        ];
        for (number, expected) in table {
            assert_eq!(bits(number), expected, "{number:?}");
        }
    }
}
