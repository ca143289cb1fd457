//! A server that holds repos: its address as a message or a DID document gives it, and who chose it.

use std::fmt;

use url::{Host as UrlHost, Url};

use super::policy;
use crate::hosts::Key;
use crate::redact::redact;

/// Who chose an address decides what it may be (see [`policy`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChosenBy {
    /// The one who runs this program, in a message or a variable.
    Operator,
    /// Somebody else: the target of a redirect, the endpoint in a DID document.
    Stranger,
}

/// A server, by scheme, name and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    url: Url,
    /// Who chose it.
    pub chosen_by: ChosenBy,
}

impl Host {
    /// Reads `host` as messages write it: with or without a scheme (none means https), with or without a slash at the end.
    ///
    /// # Errors
    /// What is wrong, in words: another scheme, no name, credentials, a path or a query.
    pub fn parse(text: &str, chosen_by: ChosenBy) -> Result<Self, String> {
        // Credentials are refused, and not to be repeated.
        let shown = redact(text);
        let with_scheme = if text.contains("://") {
            text.to_owned()
        } else {
            format!("https://{text}")
        };
        let url = Url::parse(&with_scheme).map_err(|e| format!("host {shown:?}: {e}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("host {shown:?}: neither http nor https"));
        }
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        if !bare || url.host_str().is_none_or(str::is_empty) {
            return Err(format!("host {shown:?}: more than a name and a port"));
        }
        Ok(Host { url, chosen_by })
    }

    /// The server of this URL.
    pub fn of(url: &Url, chosen_by: ChosenBy) -> Self {
        let mut origin = url.clone();
        origin.set_path("/");
        origin.set_query(None);
        origin.set_fragment(None);
        Host {
            url: origin,
            chosen_by,
        }
    }

    /// The request for the whole repo of an account (com.atproto.sync.getRepo).
    pub fn get_repo(&self, did: &str) -> Url {
        let mut url = self.url_of("/xrpc/com.atproto.sync.getRepo");
        url.query_pairs_mut().append_pair("did", did);
        url
    }

    /// What its limits are kept under.
    pub fn key(&self) -> Key {
        let port = self.url.port_or_known_default().unwrap_or_default();
        let name = self.url.host_str().unwrap_or_default();
        let name = name.trim_end_matches('.');
        Key::host(&format!("{name}:{port}"), policy::names_own(&self.url))
    }

    /// The URL of this path on the server.
    pub fn url_of(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url
    }

    /// Whether both are the same server, whoever chose them.
    pub fn is_same_server(&self, other: &Host) -> bool {
        self.url == other.url
    }
}

impl fmt::Display for Host {
    /// Name and port, without the scheme where it is https.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.url.scheme() == "http" {
            f.write_str("http://")?;
        }
        match self.url.host() {
            Some(UrlHost::Ipv6(address)) => write!(f, "[{address}]")?,
            Some(host) => write!(f, "{host}")?,
            None => {}
        }
        match self.url.port() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_comes_with_or_without_scheme_and_slash() {
        for (text, shown) in [
            ("pds.example", "pds.example"),
            ("pds.example/", "pds.example"),
            ("https://PDS.example/", "pds.example"),
            ("https://pds.example:8443", "pds.example:8443"),
            ("http://pds.example", "http://pds.example"),
            ("127.0.0.1:2583", "127.0.0.1:2583"),
            ("http://[::1]:2583/", "http://[::1]:2583"),
            ("localhost", "localhost"),
        ] {
            let host = Host::parse(text, ChosenBy::Operator).unwrap();
            assert_eq!(host.to_string(), shown);
        }
        let host = Host::parse("pds.example", ChosenBy::Operator).unwrap();
        assert_eq!(
            host.get_repo("did:plc:abc").as_str(),
            "https://pds.example/xrpc/com.atproto.sync.getRepo?did=did%3Aplc%3Aabc"
        );
        assert!(host.is_same_server(&Host::of(&host.get_repo("did:plc:abc"), ChosenBy::Stranger)));
    }

    #[test]
    fn limits_are_kept_by_name_and_port() {
        let key = |text: &str| Host::parse(text, ChosenBy::Operator).unwrap().key();
        for same in [
            "https://pds.example/",
            "PDS.Example",
            "pds.example.",
            "https://pds.example:443",
        ] {
            assert_eq!(key(same), key("pds.example"), "{same}");
        }
        for other in [
            "http://pds.example",
            "pds.example:8443",
            "a.pds.example",
            "127.0.0.1",
        ] {
            assert_ne!(key(other), key("pds.example"), "{other}");
        }
        assert_eq!(key("http://[0:0::1]:80"), key("http://[::1]"));
        assert_eq!(key("https://0x7f000001"), key("https://127.0.0.1"));
    }

    #[test]
    fn what_is_more_or_less_than_a_host_is_refused() {
        for text in [
            "",
            "/",
            "https://",
            "ftp://pds.example",
            "file:///etc/passwd",
            "https://user@pds.example",
            "https://user:pass@pds.example",
            "https://pds.example/xrpc",
            "https://pds.example/?a=b",
            "https://pds.example/#a",
            "pds example",
            "pds.example:port",
        ] {
            assert!(Host::parse(text, ChosenBy::Operator).is_err(), "{text:?}");
        }
    }
}
