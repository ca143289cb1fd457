//! Which addresses may be asked.
//!
//! A URL that a stranger chose must be https, without credentials, and must name neither an address that is not
//! [public](super::addresses) nor a name that only the operator's own network knows; every name, whoever wrote it, must resolve
//! to public addresses. What the operator wrote as an IP literal or as `localhost` is exempt, and so is everything where
//! private hosts are allowed. The check of names is made by the [`resolver`](super::resolver) on the addresses that are then
//! connected to, so that a name cannot change between check and use.
//!
//! Names that only the operator's network knows are those without a dot, which the public DNS does not have (RFC 7085) and
//! resolvers complete by the operator's search list, and those below `.local` (RFC 6762), `.internal` (reserved by ICANN for
//! private use) and `.home.arpa` (RFC 8375). Mostly they lead to private addresses, but not always: where the operator's servers
//! have public ones, such a name would lead a stranger to one that he could not have named. From the operator they are names like
//! others. Pinned by the tests here, in [`addresses`](super::addresses), and by `tests/hosts.rs`, `tests/redirects.rs` and
//! `tests/strangers.rs`.

use std::net::IpAddr;

use url::{Host as UrlHost, Url};

use super::addresses::{is_own, not_public};
use super::host::ChosenBy;

/// Names that are not in the public DNS, nor is what is below them.
const OWN_NAMES: [&str; 3] = ["local", "internal", "home.arpa"];

/// Why an address is not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

/// The rules, as configured.
#[derive(Debug, Clone, Copy)]
pub struct AddressPolicy {
    allow_private_hosts: bool,
}

impl AddressPolicy {
    /// Public addresses only, or all where private hosts are allowed.
    pub fn new(allow_private_hosts: bool) -> Self {
        AddressPolicy {
            allow_private_hosts,
        }
    }

    /// Checks what can be seen without resolving a name.
    ///
    /// # Errors
    /// Why the URL must not be asked.
    pub fn check_url(&self, url: &Url, chosen_by: ChosenBy) -> Result<(), Refusal> {
        let all_permitted = self.allow_private_hosts || chosen_by == ChosenBy::Operator;
        match url.scheme() {
            "https" => {}
            "http" if all_permitted => {}
            "http" => {
                return Err(Refusal(format!(
                    "plain http is not permitted in {} (see BACKFILLER_ALLOW_PRIVATE_HOSTS)",
                    origin(url)
                )));
            }
            scheme => {
                let text = format!("scheme {scheme} is not permitted");
                return Err(Refusal(text));
            }
        }
        if !url.username().is_empty() || url.password().is_some() {
            let text = "credentials in a URL are not permitted";
            return Err(Refusal(text.to_owned()));
        }
        let refused = match url.host() {
            None => Some("no"),
            Some(_) if all_permitted => None,
            Some(UrlHost::Ipv4(address)) => not_public(address.into()),
            Some(UrlHost::Ipv6(address)) => not_public(address.into()),
            Some(UrlHost::Domain(name)) if is_localhost(name) => Some("loopback"),
            Some(UrlHost::Domain(name)) if is_own_name(name) => Some("local"),
            Some(UrlHost::Domain(_)) => None,
        };
        match refused {
            Some(kind) => Err(Refusal(format!(
                "{kind} address in {} is not permitted (see BACKFILLER_ALLOW_PRIVATE_HOSTS)",
                origin(url)
            ))),
            None => Ok(()),
        }
    }

    /// Keeps of the addresses that `name` resolved to those that may be connected to.
    ///
    /// # Errors
    /// Why none of them may.
    pub fn permitted(&self, name: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Refusal> {
        // check_url has let this name pass, so the operator wrote it or private hosts are allowed.
        if self.allow_private_hosts || is_localhost(name) {
            return Ok(addresses.to_vec());
        }
        let permitted: Vec<_> = addresses
            .iter()
            .copied()
            .filter(|address| not_public(*address).is_none())
            .collect();
        match addresses.first() {
            Some(address) if permitted.is_empty() => Err(Refusal(format!(
                "{name} resolves to {address}, a {} address, which is not permitted \
                 (see BACKFILLER_ALLOW_PRIVATE_HOSTS)",
                not_public(*address).unwrap_or("refused")
            ))),
            _ => Ok(permitted),
        }
    }
}

/// Whether the name in a URL says that it is the operator's own: a loopback or private literal, or `localhost`.
pub fn names_own(url: &Url) -> bool {
    match url.host() {
        Some(UrlHost::Ipv4(address)) => is_own(address.into()),
        Some(UrlHost::Ipv6(address)) => is_own(address.into()),
        Some(UrlHost::Domain(name)) => is_localhost(name),
        None => false,
    }
}

/// Scheme, name and port: the rest of a URL that a stranger chose is of no use in a log, and may be a secret.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Whether the name stands for this machine wherever it is resolved (RFC 6761).
pub fn is_localhost(name: &str) -> bool {
    is_within(name, "localhost")
}

fn is_own_name(name: &str) -> bool {
    let without_root = name.strip_suffix('.').unwrap_or(name);
    !without_root.contains('.') || OWN_NAMES.iter().any(|own| is_within(name, own))
}

/// Whether the name is that of this domain or of one below it.
fn is_within(name: &str, domain: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name.strip_suffix(domain)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, chosen_by: ChosenBy) -> bool {
        let policy = AddressPolicy::new(false);
        Url::parse(url).is_ok_and(|url| policy.check_url(&url, chosen_by).is_ok())
    }

    #[test]
    fn a_stranger_may_name_public_https_only() {
        for url in [
            "https://pds.example/",
            "https://pds.example./",
            "https://203.0.114.1/",
            "https://[2606:4700::1111]:8443/",
            "https://notlocalhost.example/",
            "https://local.example/",
            "https://internal.example.com/",
            "https://home.arpa.example/",
            "https://mylocal.dev/",
        ] {
            assert!(check(url, ChosenBy::Stranger), "{url}");
        }
        for url in [
            "http://pds.example/",
            "ftp://pds.example/",
            "https://user@pds.example/",
            "https://:password@pds.example/",
            "https://127.0.0.1/",
            "https://[::1]:8443/",
        ] {
            assert!(!check(url, ChosenBy::Stranger), "{url}");
        }
    }

    #[test]
    fn an_address_is_refused_however_it_is_written() {
        for host in [
            "127.0.0.1",
            "127.0.0.1.",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "0X7F.0x0.0x0.0x1",
            "2130706433",
            "0177.0.0.1",
            "017700000001",
            "0",
            "%31%32%37.0.0.1",
            "127%2e0%2e0%2e1",
            "127。0。0。1",
            "127．0．0．1",
            "１２７.0.0.1",
            "①②⑦.0.0.1",
            "[::ffff:7f00:1]",
            "[::ffff:127.0.0.1]",
            "[0000:0000:0000:0000:0000:FFFF:7F00:0001]",
            "[::7f00:1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "[::ffff:a9fe:a9fe]",
        ] {
            assert!(
                !check(&format!("https://{host}/"), ChosenBy::Stranger),
                "{host}"
            );
            assert!(
                !check(&format!("https://{host}:8443/a?b"), ChosenBy::Stranger),
                "{host}"
            );
        }
    }

    #[test]
    fn names_of_the_operators_own_network_are_not_for_strangers() {
        for name in [
            "localhost",
            "localhost.",
            "LOCALHOST",
            "a.localhost",
            "a.b.LocalHost.",
            "ⓛocalhost",
            "localhost%2e",
            "localhost。",
            "redis",
            "redis.",
            "kubernetes",
            "com",
            "printer.local",
            "printer.LOCAL.",
            "local",
            "metadata.google.internal",
            "a.internal.",
            "router.home.arpa",
        ] {
            assert!(
                !check(&format!("https://{name}/"), ChosenBy::Stranger),
                "{name}"
            );
            assert!(
                check(&format!("https://{name}/"), ChosenBy::Operator),
                "{name}"
            );
            let all = AddressPolicy::new(true);
            let url = Url::parse(&format!("http://{name}/")).unwrap();
            assert!(all.check_url(&url, ChosenBy::Stranger).is_ok(), "{name}");
        }
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
        assert!(!check("https://user@127.0.0.1/", ChosenBy::Operator));
        let all = AddressPolicy::new(true);
        for url in ["file:///etc/passwd", "https://user@pds.example/"] {
            let url = Url::parse(url).unwrap();
            assert!(all.check_url(&url, ChosenBy::Stranger).is_err());
        }
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
        let refusal = policy.permitted("pds.example", &[private]).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "pds.example resolves to 10.0.0.1, a private address, which is not permitted \
             (see BACKFILLER_ALLOW_PRIVATE_HOSTS)"
        );
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(
            policy.permitted("localhost", &[loopback]),
            Ok(vec![loopback])
        );
    }

    #[test]
    fn a_refusal_names_no_more_than_the_server() {
        let url = Url::parse("http://pds.example/secret?token=secret#secret").unwrap();
        let refusal = AddressPolicy::new(false).check_url(&url, ChosenBy::Stranger);
        assert!(!refusal.unwrap_err().to_string().contains("secret"));
    }
}
