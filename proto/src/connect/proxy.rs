//! The proxy that connections to a control plane go through.
//!
//! A proxy is asked by HTTP `CONNECT` to join two TCP connections. TLS is spoken through it, so it
//! sees a name and a port and nothing else. Name and password of its user stand in its URL and are
//! sent to it alone: what is shown, logged or given to scripts has neither.

use std::{fmt, sync::Arc};

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// The variables that say which proxy to use, and for what not to. Those written in lower case win.
pub const VARIABLES: [&str; 8] = [
    "https_proxy",
    "HTTPS_PROXY",
    "http_proxy",
    "HTTP_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// A proxy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The text is no URL of a proxy. It is not repeated, because a password may be in it.
    #[error("the proxy in {0} is no URL such as http://proxy.example.com:3128")]
    Malformed(&'static str),
    #[error("the proxy in {0} is not an http:// one, and others are not spoken")]
    Unsupported(&'static str),
}

/// Which connections go through which proxy.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Option<Arc<Matcher>>);

/// A proxy on the way to one control plane.
#[derive(Clone)]
pub(super) struct Proxy(Intercept);

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proxy").field(&self.shown()).finish()
    }
}

impl Proxy {
    pub(super) fn uri(&self) -> Uri {
        self.0.uri().clone()
    }

    /// The `proxy-authorization` header, when its URL names a user.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        self.0.basic_auth().cloned()
    }

    /// Its address, without the name and the password of its user.
    pub(super) fn shown(&self) -> String {
        let uri = self.0.uri();
        let host = uri.host().unwrap_or_default();
        match uri.port_u16() {
            Some(port) => format!("http://{host}:{port}"),
            None => format!("http://{host}"),
        }
    }
}

impl Proxies {
    /// The proxy that was typed, or else the one of the environment. An empty text that was typed
    /// means no proxy, whatever the environment says. `no_proxy` counts for both.
    pub fn new(
        typed: Option<&str>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ProxyError> {
        let found = |names: &[&'static str]| {
            let set = names
                .iter()
                .map(|name| (*name, env(name).unwrap_or_default()));
            set.into_iter().find(|(_, value)| !value.trim().is_empty())
        };
        let (source, proxy) = match typed {
            Some(typed) => ("--proxy", typed.to_owned()),
            None => {
                found(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]).unwrap_or_default()
            }
        };
        let proxy = proxy.trim();
        if proxy.is_empty() {
            return Ok(Self::default());
        }
        check(source, proxy)?;
        let exempt = found(&["no_proxy", "NO_PROXY"]).map_or_else(String::new, |(_, text)| text);
        let matcher = Matcher::builder().https(proxy).no(exempt).build();
        // The library says nothing about a proxy it cannot read, and would go without.
        let anywhere = Uri::from_static("https://kernex.invalid");
        let unread = Matcher::builder().https(proxy).build();
        if unread.intercept(&anywhere).is_none() {
            return Err(ProxyError::Malformed(source));
        }
        Ok(Self(Some(Arc::new(matcher))))
    }

    /// Address of the proxy on the way to a control plane, without the name and the password of its
    /// user; none when nothing is in between, or `address` is no URL.
    #[must_use]
    pub fn shown_for(&self, address: &str) -> Option<String> {
        let origin = address.parse().ok()?;
        Some(self.on_the_way_to(&origin)?.shown())
    }

    /// The proxy on the way to `origin`. This machine is never reached through one.
    pub(super) fn on_the_way_to(&self, origin: &Uri) -> Option<Proxy> {
        let matcher = self.0.as_ref()?;
        if is_here(origin.host()?) {
            return None;
        }
        matcher.intercept(origin).map(Proxy)
    }
}

fn check(source: &'static str, proxy: &str) -> Result<(), ProxyError> {
    match proxy.split_once("://") {
        Some((scheme, _)) if !scheme.eq_ignore_ascii_case("http") => {
            return Err(ProxyError::Unsupported(source));
        }
        _ => {}
    }
    let address = without_credentials(proxy);
    let uri: Uri = address.parse().map_err(|_| ProxyError::Malformed(source))?;
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    has_host.then_some(()).ok_or(ProxyError::Malformed(source))
}

fn is_here(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<std::net::IpAddr>();
    bare.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// The value of one of [`VARIABLES`] as others may see it: a URL without the name and the password
/// of a user. A list of names is not changed.
#[must_use]
pub fn without_credentials(value: &str) -> String {
    let (scheme, rest) = match value.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, value),
    };
    // A password may have any character in it, so everything up to the last @ goes.
    let bare = rest.rsplit_once('@').map_or(rest, |(_, bare)| bare);
    match scheme {
        Some(scheme) => format!("{scheme}://{bare}"),
        None => bare.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(typed: Option<&str>, env: &[(&str, &str)]) -> Result<Proxies, ProxyError> {
        Proxies::new(typed, |name| {
            let set = env.iter().find(|(known, _)| *known == name);
            set.map(|(_, value)| (*value).to_owned())
        })
    }

    fn way(proxies: &Proxies, origin: &str) -> Option<String> {
        let proxy = proxies.on_the_way_to(&origin.parse().unwrap());
        proxy.map(|proxy| proxy.shown())
    }

    const FAR: &str = "https://kernex.example:7443";

    #[test]
    fn the_environment_names_a_proxy_in_either_case_and_exceptions() {
        let proxy = Some("http://p:3128".to_owned());
        for name in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            let set = rules(None, &[(name, "http://p:3128")]).unwrap();
            assert_eq!(way(&set, FAR), proxy, "{name}");
        }
        let plain = rules(None, &[("http_proxy", "http://p:3128")]).unwrap();
        assert_eq!(way(&plain, FAR), None, "it is for other connections");
        for except in ["kernex.example", ".example", "x,kernex.example", "*"] {
            for name in ["no_proxy", "NO_PROXY"] {
                let set = [("https_proxy", "p:3128"), (name, except)];
                assert_eq!(way(&rules(None, &set).unwrap(), FAR), None, "{except}");
            }
        }
        let set = [("https_proxy", "p:3128"), ("no_proxy", "10.0.0.0/8")];
        let set = rules(None, &set).unwrap();
        assert_eq!(way(&set, "https://10.2.3.4:7443"), None);
        assert_eq!(way(&set, "https://11.2.3.4:7443"), proxy);
    }

    #[test]
    fn what_is_typed_wins_and_this_machine_is_near() {
        let env = [("https_proxy", "http://other:1")];
        let typed = rules(Some("http://p:3128"), &env).unwrap();
        assert_eq!(way(&typed, FAR), Some("http://p:3128".to_owned()));
        assert_eq!(way(&rules(Some(""), &env).unwrap(), FAR), None);
        assert_eq!(way(&rules(None, &[]).unwrap(), FAR), None);
        for near in [
            "https://localhost:1",
            "https://127.0.0.1:1",
            "https://[::1]:1",
        ] {
            assert_eq!(way(&typed, near), None, "{near}");
        }
    }

    #[test]
    fn a_password_is_sent_and_not_shown() {
        let typed = "http://ada:p%40ss@p:3128";
        let proxies = rules(Some(typed), &[]).unwrap();
        let proxy = proxies.on_the_way_to(&FAR.parse().unwrap()).unwrap();
        // "ada:p@ss"
        assert_eq!(proxy.authorization().unwrap(), "Basic YWRhOnBAc3M=");
        assert_eq!(proxies.shown_for(FAR).as_deref(), Some("http://p:3128"));
        assert_eq!(proxies.shown_for("no url"), None);
        let shown = format!("{proxies:?} {proxy:?} {}", proxy.shown());
        assert!(!shown.contains("ada") && !shown.contains("ss@"), "{shown}");
        for (value, shown) in [
            (typed, "http://p:3128"),
            ("ada:a@b@p:3128", "p:3128"),
            ("http://p:3128", "http://p:3128"),
            ("localhost,.example", "localhost,.example"),
        ] {
            assert_eq!(without_credentials(value), shown);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_repeating_it() {
        for (bad, expected) in [
            ("socks5://u:secret@p:1", ProxyError::Unsupported("--proxy")),
            ("https://u:secret@p:1", ProxyError::Unsupported("--proxy")),
            ("http://", ProxyError::Malformed("--proxy")),
            ("http://u:secret@p:x y", ProxyError::Malformed("--proxy")),
        ] {
            let error = rules(Some(bad), &[]).unwrap_err();
            assert_eq!(error, expected, "{bad}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
