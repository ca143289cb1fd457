//! From the text of a variable to a value that needs no further check.
//!
//! Each function names the variable in what it refuses. An empty value counts as unset. Pinned by `tests/config.rs`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::ConfigError;
use crate::collections::{BadCollection, Collections};
use crate::logging::Format;
use crate::redact::redact;

pub(super) fn refuse(
    variable: &'static str,
    value: &str,
    accepted: impl Into<String>,
) -> ConfigError {
    ConfigError {
        variable,
        // Escaped, so that the message stays one line.
        value: format!("={}", value.escape_debug()),
        accepted: accepted.into(),
    }
}

/// An empty value counts as unset, as service managers and compose files write it.
pub(super) fn text(value: &Option<String>) -> Option<&str> {
    value.as_deref().map(str::trim).filter(|s| !s.is_empty())
}

pub(super) fn number(
    variable: &'static str,
    value: &Option<String>,
    default: u64,
    min: u64,
    max: u64,
) -> Result<u64, ConfigError> {
    optional(variable, value, min, max).map(|n| n.unwrap_or(default))
}

/// A whole number; `None` where it is not set.
pub(super) fn optional(
    variable: &'static str,
    value: &Option<String>,
    min: u64,
    max: u64,
) -> Result<Option<u64>, ConfigError> {
    let Some(value) = text(value) else {
        return Ok(None);
    };
    match value.parse::<u64>() {
        Ok(n) if (min..=max).contains(&n) => Ok(Some(n)),
        _ if max == u64::MAX => Err(refuse(
            variable,
            value,
            format!("a whole number from {min} up"),
        )),
        _ => Err(refuse(
            variable,
            value,
            format!("a whole number from {min} to {max}"),
        )),
    }
}

/// A number with or without decimals; neither an exponent nor `inf`, which nobody means. `None` where it is not set.
pub(super) fn decimal(
    variable: &'static str,
    value: &Option<String>,
    min: f64,
    max: f64,
) -> Result<Option<f64>, ConfigError> {
    let Some(value) = text(value) else {
        return Ok(None);
    };
    let plain = value.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match value.parse::<f64>() {
        Ok(n) if plain && (min..=max).contains(&n) => Ok(Some(n)),
        _ => Err(refuse(
            variable,
            value,
            format!("a decimal number from {min} to {max}"),
        )),
    }
}

/// At most a day: a longer wait is a mistake in units.
pub(super) fn seconds(
    variable: &'static str,
    value: &Option<String>,
    default: u64,
    min: u64,
) -> Result<Duration, ConfigError> {
    number(variable, value, default, min, 86_400).map(Duration::from_secs)
}

/// At most a day, and more than nothing: a retry without any pause would be a loop.
pub(super) fn millis(
    variable: &'static str,
    value: &Option<String>,
    default: u64,
) -> Result<Duration, ConfigError> {
    number(variable, value, default, 1, 86_400_000).map(Duration::from_millis)
}

pub(super) fn boolean(variable: &'static str, value: &Option<String>) -> Result<bool, ConfigError> {
    let value = text(value).unwrap_or("false");
    match value.to_ascii_lowercase().as_str() {
        "false" | "0" | "no" | "off" => Ok(false),
        "true" | "1" | "yes" | "on" => Ok(true),
        _ => Err(refuse(variable, value, "true or false")),
    }
}

/// Keys and names go into Redis commands and log lines as they are.
pub(super) fn key(
    variable: &'static str,
    value: &Option<String>,
    default: &str,
) -> Result<String, ConfigError> {
    let value = text(value).unwrap_or(default);
    if value.len() > 256 || value.chars().any(|c| c.is_control()) {
        return Err(refuse(
            variable,
            value,
            "at most 256 bytes without control characters",
        ));
    }
    Ok(value.to_owned())
}

pub(super) fn consumer(value: &Option<String>) -> Result<String, ConfigError> {
    if text(value).is_none() {
        return Err(ConfigError {
            variable: "BACKFILLER_CONSUMER",
            value: " (unset)".to_owned(),
            accepted: "a name that no other process of the group has, for example backfiller_1"
                .to_owned(),
        });
    }
    key("BACKFILLER_CONSUMER", value, "")
}

pub(super) fn plc_url(value: &Option<String>) -> Result<String, ConfigError> {
    let value = text(value).unwrap_or("https://plc.directory");
    match Url::parse(value) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none() =>
        {
            Ok(value.trim_end_matches('/').to_owned())
        }
        _ => Err(refuse(
            "BACKFILLER_PLC_URL",
            &redact(value),
            "a URL http:// or https:// without a query",
        )),
    }
}

/// A file is made there for a moment, to see that it can be.
pub(super) fn spill_dir(value: &Option<String>) -> Result<Arc<Path>, ConfigError> {
    let value = text(value).unwrap_or("/var/tmp");
    let folder = Path::new(value);
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(folder.into()),
        Err(e) => Err(refuse(
            "BACKFILLER_SPILL_DIR",
            value,
            format!("a folder in which files can be made, which failed with: {e}"),
        )),
    }
}

pub(super) fn log_filter(value: &Option<String>) -> Result<String, ConfigError> {
    let value = text(value).unwrap_or("info");
    match env_filter::Builder::new().try_parse(value) {
        Ok(_) => Ok(value.to_owned()),
        Err(_) => Err(refuse(
            "RUST_LOG",
            value,
            "off, error, warn, info, debug or trace, or a list of module=level",
        )),
    }
}

pub(super) fn log_format(value: &Option<String>) -> Result<Format, ConfigError> {
    let value = text(value).unwrap_or("text");
    Format::from_name(value).ok_or_else(|| refuse("BACKFILLER_LOG_FORMAT", value, "text or json"))
}

pub(super) fn collections(value: &Option<String>) -> Result<Collections, ConfigError> {
    let Some(value) = text(value) else {
        return Ok(Collections::default());
    };
    value.parse().map_err(|e: BadCollection| {
        let accepted = format!(
            "all, or NSIDs and prefixes like app.bsky.feed.* with commas between them; {e}"
        );
        refuse("BACKFILLER_COLLECTIONS", value, accepted)
    })
}

/// Where the operator's HTTP server listens. An address that is not one is refused also where no port is set.
pub(super) fn http(
    port: &Option<String>,
    bind: &Option<String>,
) -> Result<Option<SocketAddr>, ConfigError> {
    let address = match text(bind) {
        None => Ipv4Addr::LOCALHOST.into(),
        // As it stands in URLs, too.
        Some(value) => value
            .strip_prefix('[')
            .and_then(|value| value.strip_suffix(']'))
            .unwrap_or(value)
            .parse::<IpAddr>()
            .map_err(|_| {
                let accepted = "an IP address, for example 127.0.0.1, 0.0.0.0 or ::1";
                refuse("BACKFILLER_METRICS_BIND", value, accepted)
            })?,
    };
    let port = optional("BACKFILLER_METRICS_PORT", port, 0, u64::from(u16::MAX))?;
    Ok(port.map(|port| SocketAddr::new(address, port as u16)))
}

/// It becomes part of a header, so it is held to printable ASCII.
pub(super) fn contact(value: &Option<String>) -> Result<Option<String>, ConfigError> {
    match text(value) {
        Some(value) if value.len() > 200 || !value.bytes().all(|b| (0x20..0x7f).contains(&b)) => {
            Err(refuse(
                "BACKFILLER_CONTACT",
                value,
                "at most 200 characters of printable ASCII",
            ))
        }
        value => Ok(value.map(str::to_owned)),
    }
}
