//! Whom the operator wants to be asked about handles.

use std::net::SocketAddr;

use crate::cli::HandleOptions;
use crate::config::ConfigError;
use crate::fetch::host::{ChosenBy, Host};
use crate::redact::redact;

/// Whom to ask, as the operator has set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The DNS (the system's servers, or this one) and the handles' own hosts.
    Own(Option<SocketAddr>),
    /// This server.
    Server(Host),
}

impl Way {
    /// Checks what the operator wrote.
    ///
    /// # Errors
    /// The value that is not accepted.
    pub fn from_options(options: &HandleOptions) -> Result<Self, ConfigError> {
        let text = |value: &Option<String>| {
            let value = value.as_deref().map(str::trim).unwrap_or_default();
            (!value.is_empty()).then(|| value.to_owned())
        };
        let refused = |variable, value: String, accepted: &str| ConfigError {
            variable,
            value: format!("={}", value.escape_debug()),
            accepted: accepted.to_owned(),
        };
        if let Some(url) = text(&options.handle_resolver) {
            return match Host::parse(&url, ChosenBy::Operator) {
                Ok(host) => Ok(Way::Server(host)),
                Err(_) => Err(refused(
                    "BACKFILLER_HANDLE_RESOLVER",
                    redact(&url),
                    "a server, http:// or https://, without a path",
                )),
            };
        }
        match text(&options.dns) {
            None => Ok(Way::Own(None)),
            Some(address) => match address.parse() {
                Ok(address) => Ok(Way::Own(Some(address))),
                Err(_) => Err(refused("--dns", address, "an address and a port")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_to_ask_is_checked() {
        let way = |server: &str, dns: &str| {
            Way::from_options(&HandleOptions {
                handle_resolver: Some(server.to_owned()),
                dns: Some(dns.to_owned()),
            })
        };
        assert_eq!(way("", " "), Ok(Way::Own(None)));
        assert!(matches!(
            way("http://127.0.0.1:2583", ""),
            Ok(Way::Server(_))
        ));
        assert!(matches!(way("", "127.0.0.1:53"), Ok(Way::Own(Some(_)))));
        assert!(way("", "127.0.0.1").is_err());
        for url in ["ftp://pds.example", "https://pds.example/xrpc"] {
            assert!(way(url, "").is_err(), "{url}");
        }
        let secret = way("https://user:secret@pds.example", "").unwrap_err();
        assert!(!secret.to_string().contains("secret"), "{secret}");
    }
}
