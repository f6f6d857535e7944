//! The text of an enrolment token.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::ids::{ClusterId, Digest, TokenId};

/// A server whose certificate comes from an authority that the agent's machine trusts, and not from
/// the pinned CA. Only the text of an enrolment token can say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebPki {
    /// The name that the certificate has to have.
    pub name: String,
    /// When that was said, in seconds since 1970: certificates that were over then are refused.
    pub since: u64,
}

/// What follows an enrolment token in its text, before the name and the instant of [`WebPki`].
const WEBPKI: &str = "webpki";

/// The one string an agent needs: `kxe1.<token id>.<cluster id>.<CA pin>.<secret>`, and for
/// [`WebPki`] `.webpki.<name>.<seconds>` behind it.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrollmentToken {
    pub id: TokenId,
    /// The cluster it lets into.
    pub cluster: ClusterId,
    /// SHA-256 of the CA certificate's public key (SPKI DER); all zero when the server runs without
    /// TLS.
    pub ca_pin: Digest,
    /// 32 random bytes.
    pub secret: [u8; 32],
    /// How the server is known instead of by the pin of its CA.
    pub webpki: Option<WebPki>,
}

/// Secrets do not belong in logs.
impl fmt::Debug for EnrollmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollmentToken")
            .field("id", &self.id)
            .field("cluster", &self.cluster)
            .field("ca_pin", &self.ca_pin)
            .field("webpki", &self.webpki)
            .finish_non_exhaustive()
    }
}

impl EnrollmentToken {
    /// The text handed to an operator, once.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "kxe1.{}.{}.{}.{}",
            URL_SAFE_NO_PAD.encode(self.id.0.as_bytes()),
            URL_SAFE_NO_PAD.encode(self.cluster.0.as_bytes()),
            URL_SAFE_NO_PAD.encode(self.ca_pin.0),
            URL_SAFE_NO_PAD.encode(self.secret),
        );
        if let Some(WebPki { name, since }) = &self.webpki {
            let name = URL_SAFE_NO_PAD.encode(name);
            text.push_str(&format!(".{WEBPKI}.{name}.{since}"));
        }
        text
    }
}

/// The text is not an enrolment token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not an enrolment token; it should start with `kxe1.` and be copied whole")]
pub struct InvalidEnrollmentToken;

impl FromStr for EnrollmentToken {
    type Err = InvalidEnrollmentToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().split('.');
        if parts.next() != Some("kxe1") {
            return Err(InvalidEnrollmentToken);
        }
        let token = Self {
            id: TokenId(uuid::Uuid::from_bytes(field(parts.next())?)),
            cluster: ClusterId(uuid::Uuid::from_bytes(field(parts.next())?)),
            ca_pin: Digest(field(parts.next())?),
            secret: field(parts.next())?,
            webpki: match parts.next() {
                None => None,
                Some(WEBPKI) => Some(webpki(parts.next(), parts.next())?),
                Some(_) => return Err(InvalidEnrollmentToken),
            },
        };
        if parts.next().is_some() {
            return Err(InvalidEnrollmentToken);
        }
        Ok(token)
    }
}

fn webpki(name: Option<&str>, since: Option<&str>) -> Result<WebPki, InvalidEnrollmentToken> {
    let name = name.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let name = name.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(WebPki {
        name: name
            .filter(|name| !name.is_empty() && name.len() <= 253)
            .ok_or(InvalidEnrollmentToken)?,
        since: since
            .and_then(|text| text.parse().ok())
            .ok_or(InvalidEnrollmentToken)?,
    })
}

fn field<const N: usize>(part: Option<&str>) -> Result<[u8; N], InvalidEnrollmentToken> {
    part.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(InvalidEnrollmentToken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_survive_their_text(id in any::<[u8; 16]>(), cluster in any::<[u8; 16]>(), pin in any::<[u8; 32]>(), secret in any::<[u8; 32]>(), name in prop::option::of("[a-z.]{1,40}"), since in any::<u64>()) {
            let token = EnrollmentToken {
                id: TokenId(uuid::Uuid::from_bytes(id)),
                cluster: ClusterId(uuid::Uuid::from_bytes(cluster)),
                ca_pin: Digest(pin),
                secret,
                webpki: name.map(|name| WebPki { name, since }),
            };
            prop_assert_eq!(token.to_text().parse(), Ok(token));
        }
    }

    #[test]
    fn broken_tokens_are_refused() {
        for bad in ["", "kxe1", "kxe1.a.b.c.d", "kxe2.AAAA"] {
            assert_eq!(bad.parse::<EnrollmentToken>(), Err(InvalidEnrollmentToken));
        }
    }
}
