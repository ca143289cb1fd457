//! Which addresses may be asked.
//!
//! A URL that a stranger chose must be https, without credentials, and must not name an address of its own that is not public;
//! every name, whoever wrote it, must resolve to public addresses. What the operator wrote as an IP literal or as `localhost` is
//! exempt, and so is everything where private hosts are allowed. The check of names is made by the
//! [`resolver`](super::resolver) on the addresses that are then connected to, so that a name cannot change between check and
//! use. Which addresses are public is rsky-identity's `NetworkPolicy`. Pinned by the tests here and by `tests/hosts.rs`
//! and `tests/redirects.rs`.

use std::net::IpAddr;

use rsky_identity::safe_fetch::NetworkPolicy;
use url::{Host as UrlHost, Url};

use super::host::ChosenBy;

/// The rules, as configured.
#[derive(Debug, Clone, Copy)]
pub struct AddressPolicy {
    network: NetworkPolicy,
}

impl AddressPolicy {
    /// Public addresses only, or all where private hosts are allowed.
    pub fn new(allow_private_hosts: bool) -> Self {
        AddressPolicy {
            network: if allow_private_hosts {
                NetworkPolicy::PERMISSIVE
            } else {
                NetworkPolicy::PUBLIC
            },
        }
    }

    /// The same rules for rsky-identity's own client.
    pub fn network(&self) -> NetworkPolicy {
        self.network
    }

    /// Checks what can be seen without resolving a name.
    ///
    /// # Errors
    /// Why the URL must not be asked.
    pub fn check_url(&self, url: &Url, chosen_by: ChosenBy) -> Result<(), String> {
        let by_stranger = chosen_by == ChosenBy::Stranger;
        match url.scheme() {
            "https" => {}
            "http" if !by_stranger || self.network.allow_http => {}
            "http" => {
                return Err(format!(
                    "plain http is not permitted in {url} (see BACKFILLER_ALLOW_PRIVATE_HOSTS)"
                ));
            }
            scheme => return Err(format!("scheme {scheme} is not permitted in {url}")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials in a URL are not permitted".to_owned());
        }
        let refusal = match url.host() {
            None => Some("no host"),
            Some(_) if !by_stranger => None,
            Some(UrlHost::Ipv4(address)) => self.network.refusal(address.into()),
            Some(UrlHost::Ipv6(address)) => self.network.refusal(address.into()),
            Some(UrlHost::Domain(name)) if is_localhost(name) && !self.network.allow_loopback => {
                Some("loopback")
            }
            Some(UrlHost::Domain(_)) => None,
        };
        match refusal {
            Some(reason) => Err(format!(
                "{reason} address in {url} is not permitted (see BACKFILLER_ALLOW_PRIVATE_HOSTS)"
            )),
            None => Ok(()),
        }
    }

    /// Keeps of the addresses that `name` resolved to those that may be connected to.
    ///
    /// # Errors
    /// Why none of them may.
    pub fn permitted(&self, name: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, String> {
        // check_url has let this name pass, so the operator wrote it or private hosts are allowed.
        if is_localhost(name) {
            return Ok(addresses.to_vec());
        }
        let permitted: Vec<_> = addresses
            .iter()
            .copied()
            .filter(|address| self.network.permits(*address))
            .collect();
        match (permitted.is_empty(), addresses.first()) {
            (false, _) => Ok(permitted),
            (true, None) => Err(format!("{name} has no address")),
            (true, Some(address)) => Err(format!(
                "{name} resolves to {address}, a {} address, which is not permitted",
                self.network.refusal(*address).unwrap_or("refused")
            )),
        }
    }
}

/// Whether the name in a URL says that it is not a public address: a literal, or `localhost`.
pub fn names_private(url: &Url) -> bool {
    let network = NetworkPolicy::PUBLIC;
    match url.host() {
        Some(UrlHost::Ipv4(address)) => network.refusal(address.into()).is_some(),
        Some(UrlHost::Ipv6(address)) => network.refusal(address.into()).is_some(),
        Some(UrlHost::Domain(name)) => is_localhost(name),
        None => false,
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, chosen_by: ChosenBy) -> bool {
        AddressPolicy::new(false)
            .check_url(&Url::parse(url).unwrap(), chosen_by)
            .is_ok()
    }

    #[test]
    fn a_stranger_may_name_public_https_only() {
        assert!(check("https://pds.example/", ChosenBy::Stranger));
        assert!(check("https://203.0.114.1/", ChosenBy::Stranger));
        for url in [
            "http://pds.example/",
            "ftp://pds.example/",
            "https://user@pds.example/",
            "https://localhost/",
            "https://a.localhost./",
            "https://127.0.0.1/",
            "https://10.1.2.3/",
            "https://169.254.169.254/",
            "https://100.64.0.1/",
            "https://[::1]/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://0x7f000001/",
        ] {
            assert!(!check(url, ChosenBy::Stranger), "{url}");
        }
        let all = AddressPolicy::new(true);
        let url = Url::parse("http://127.0.0.1:1/").unwrap();
        assert!(all.check_url(&url, ChosenBy::Stranger).is_ok());
        assert!(
            all.check_url(
                &Url::parse("file:///etc/passwd").unwrap(),
                ChosenBy::Stranger
            )
            .is_err()
        );
    }

    #[test]
    fn the_operator_may_name_literals_and_localhost() {
        for url in [
            "http://127.0.0.1:2583/",
            "http://localhost/",
            "https://10.0.0.1/",
            "http://pds.example/",
        ] {
            assert!(check(url, ChosenBy::Operator), "{url}");
        }
        assert!(!check("ftp://127.0.0.1/", ChosenBy::Operator));
    }

    #[test]
    fn a_name_must_resolve_to_public_addresses() {
        let policy = AddressPolicy::new(false);
        let public: IpAddr = "203.0.114.1".parse().unwrap();
        let private: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(
            policy.permitted("pds.example", &[private, public]),
            Ok(vec![public])
        );
        assert!(policy.permitted("pds.example", &[private]).is_err());
        assert!(policy.permitted("pds.example", &[]).is_err());
        assert_eq!(
            AddressPolicy::new(true).permitted("pds.example", &[private]),
            Ok(vec![private])
        );
    }
}
