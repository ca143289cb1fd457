//! No secret in a log line or an error: URLs without their passwords.

/// The URL with its password, if it has one, replaced by `***`.
///
/// Works on text, so that it holds for what is not a valid URL too: all between the first colon of the user part and the last
/// `@` may be a password; where no `://` says where the user part begins, it begins at the start.
pub fn redact(url: &str) -> String {
    let mut shown = url.to_owned();
    let start = shown.find("://").map_or(0, |at| at + 3);
    if let Some(end) = shown[start..].rfind('@').map(|at| at + start)
        && let Some(colon) = shown[start..end].find(':').map(|at| at + start)
    {
        shown.replace_range(colon + 1..end, "***");
    }
    // unix:///path?pass=… carries it in the query; whatever sounds like it is taken for one.
    if let Some((base, query)) = shown.split_once('?') {
        let masked = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if name.to_ascii_lowercase().contains("pass") => format!("{name}=***"),
            _ => pair.to_owned(),
        });
        shown = format!("{base}?{}", masked.collect::<Vec<_>>().join("&"));
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
            ("redis://user@h", "redis://user@h"),
            (
                "unix:///run/r.sock?db=1&pass=secret&user=u",
                "unix:///run/r.sock?db=1&pass=***&user=u",
            ),
            ("redis://h:6379", "redis://h:6379"),
            (
                "redis://h?Password=a&db=1&passphrase=b",
                "redis://h?Password=***&db=1&passphrase=***",
            ),
            ("redis:/:secret@h", "redis:***@h"),
            ("user:secret@h:1", "user:***@h:1"),
        ] {
            assert_eq!(redact(url), shown);
        }
    }
}
