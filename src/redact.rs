//! No secret in a log line or an error: URLs without their passwords, and errors that do not repeat what was sent.
//!
//! All of it works on text, so that it holds for what is not a valid URL too: what is not certainly something else may be the
//! password. Pinned by the tests here and, with passwords in every place that takes one, by `tests/secrets.rs`.

/// What stands in place of a secret.
const HIDDEN: &str = "***";
/// Parameters of a Redis URL that are no secrets; all others may be.
const SHOWN: [&str; 3] = ["db", "user", "protocol"];
/// How Redis begins to repeat a command that it does not know.
const REPEATED: &str = "with args beginning with";

/// The URL with its password, if it has one, replaced by `***`.
///
/// All between the first colon of the user part and the last `@` may be a password. A name alone may be one as well, by mistake or,
/// on the web, as a token; so it is shown only for Redis, and before a colon. Where no `://` says where the user part begins, it
/// begins at the start. Without an `@`, what stands behind a colon and is no port may be one; and where there is no `://`, all that
/// stands behind a colon without a port. Of the query only what is known is shown. A path to a socket has no user part: there the `@` is the path's or the query's.
pub fn redact(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let scheme = url.split(':').next().unwrap_or_default();
    let scheme = scheme.to_ascii_lowercase();
    let (is_web, is_path) = (scheme.starts_with("http"), scheme.ends_with("unix"));
    let mut shown = url.to_owned();
    let at = shown[start..].rfind('@').map(|at| at + start);
    if let Some(end) = at.filter(|_| !is_path) {
        if is_web && url[start..end].contains('?') {
            // What follows an `@` in a query may be the rest of a secret.
            return format!("{}{HIDDEN}", &url[..start]);
        }
        match shown[start..end].find(':').map(|at| at + start) {
            Some(colon) if !is_web => shown.replace_range(colon + 1..end, HIDDEN),
            _ => shown.replace_range(start..end, HIDDEN),
        }
    } else if !is_path {
        let end = url[start..]
            .find(['/', '?'])
            .map_or(url.len(), |at| at + start);
        if start > 0 && start == end {
            // A slash is too many, and what looks like a path is what should stand before it.
            shown.replace_range(start.., HIDDEN);
        } else if let Some(colon) = password_of(&url[start..end]) {
            shown.replace_range(start + colon + 1.., HIDDEN);
        } else if start == 0
            && let Some(colon) = url.find(':').filter(|colon| colon + 1 >= end)
        {
            // A slash is missing: what looks like a path is what should stand before it.
            shown.replace_range(colon + 1.., HIDDEN);
        }
    }
    // unix:///path?pass=… carries it in the query, where a name may be written in many ways.
    if let Some((base, query)) = shown.split_once('?') {
        let masked = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if SHOWN.contains(&name) => pair.to_owned(),
            Some((name, _)) => format!("{name}={HIDDEN}"),
            None => HIDDEN.to_owned(),
        });
        shown = format!("{base}?{}", masked.collect::<Vec<_>>().join("&"));
    }
    shown
}

/// Where in `host:port` the colon stands, if what is behind it is no port, or no host before it.
fn password_of(authority: &str) -> Option<usize> {
    let name = authority.rfind(']').map_or(0, |at| at + 1);
    let colon = authority[name..].find(':')? + name;
    let port = &authority[colon + 1..];
    (colon == 0 || !port.bytes().all(|b| b.is_ascii_digit())).then_some(colon)
}

/// The secrets that the URL holds, as they stand in it: its user part, and the password in that.
pub fn secrets_of(url: &str) -> Vec<&str> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let Some((user, _)) = url[start..].rsplit_once('@') else {
        return Vec::new();
    };
    let password = user.split_once(':').map(|(_, password)| password);
    [Some(user), password].into_iter().flatten().collect()
}

/// The text of an error without the secrets that it repeats. Redis repeats, in parts, a command that it does not know, and whoever
/// stands before it may repeat more.
pub fn without_secrets(text: &str, secrets: &[&str]) -> String {
    let text = text.split_once(REPEATED).map_or(text, |(before, _)| before);
    let mut shown = text.trim_end_matches([' ', ',']).to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        shown = shown.replace(secret, HIDDEN);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_shows_no_password_however_it_is_written() {
        for (url, shown) in [
            ("redis://:secret@h:1/2", "redis://:***@h:1/2"),
            ("redis://secret@h", "redis://***@h"),
            (
                "unix:///run/r.sock?db=1&pass=secret&user=u",
                "unix:///run/r.sock?db=1&pass=***&user=u",
            ),
            ("redis://h:6379", "redis://h:6379"),
            ("redis://h:6379/2", "redis://h:6379/2"),
            ("redis://[::1]:6379/2", "redis://[::1]:6379/2"),
            ("rediss://h:6379/#insecure", "rediss://h:6379/#insecure"),
            (
                "redis://h?Password=a&db=1&passphrase=b",
                "redis://h?Password=***&db=1&passphrase=***",
            ),
            ("redis:/:secret@h", "redis:***@h"),
            ("redis:/:secret", "redis:***"),
            ("redis:///:secret", "redis://***"),
            ("redis:///u:secret?db=1", "redis://***"),
            ("rediss:/default:secret", "rediss:***"),
            ("redis:secret", "redis:***"),
            ("/u:secret", "/u:***"),
            ("user:secret@h:1", "user:***@h:1"),
            // Encoded, or with what should have been.
            ("redis://u:se%40cret@h", "redis://u:***@h"),
            ("redis://u:se@c/r?e#t@h:1", "redis://u:***@h:1"),
            ("unix:///s?p%61ss=secret", "unix:///s?p%61ss=***"),
            ("unix:///s?pass=se&cret#x", "unix:///s?pass=***&***"),
            ("unix:///s?pass=se@cret&db=1", "unix:///s?pass=***&db=1"),
            ("redis+unix:///a@b?pass=s", "redis+unix:///a@b?pass=***"),
            ("unix:?pass=a@b", "unix:?pass=***"),
            ("https://plc.example?token=a@b", "https://***"),
            // With the host forgotten, or its `@`.
            ("redis://:secret", "redis://:***"),
            ("redis://:1234", "redis://:***"),
            ("redis://u:secret/0", "redis://u:***"),
            ("redis://:secret%40h:6379", "redis://:***"),
            ("redis://[::1]:secret", "redis://[::1]:***"),
            // Of a directory the name alone may be a token.
            ("https://token@plc.example/x", "https://***@plc.example/x"),
            ("https://u:p@plc.example", "https://***@plc.example"),
            ("https://plc.directory", "https://plc.directory"),
            ("", ""),
        ] {
            assert_eq!(redact(url), shown, "{url}");
        }
    }

    #[test]
    fn an_error_does_not_repeat_what_was_sent() {
        let unknown = "ERR: unknown command 'AUTH', with args beginning with: 'u' 'secr";
        assert_eq!(
            without_secrets(unknown, &["secret"]),
            "ERR: unknown command 'AUTH'"
        );
        let quoted = "no user secret here";
        assert_eq!(without_secrets(quoted, &["secret", ""]), "no user *** here");
        assert_eq!(without_secrets("fine", &["secret"]), "fine");
        let url = "bad uri: https://u:secret@h/";
        assert_eq!(
            without_secrets(url, &secrets_of("https://u:secret@h")),
            "bad uri: https://***@h/"
        );
        assert!(secrets_of("https://h").is_empty());
    }
}
