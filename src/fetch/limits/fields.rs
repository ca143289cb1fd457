//! The texts of headers, and the items of lists in them.
//!
//! Enough of RFC 9651 (structured fields) to read what servers send, and no stricter than that: an item, then parameters behind
//! semicolons, and commas between items. Neither counts within a quoted string.

use ureq::http::HeaderMap;

/// An item of a list: `3000;w=300`, `"default";q=100;w=10`, `limit=100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item<'h> {
    /// What stands before the first semicolon, with its quotes.
    pub bare: &'h str,
    parameters: &'h str,
}

impl<'h> Item<'h> {
    fn new(text: &'h str) -> Self {
        let bare = split(text, b';').next().unwrap_or_default();
        Item {
            bare: bare.trim(),
            parameters: text[bare.len()..].trim_start_matches(';'),
        }
    }

    /// The value of a parameter, without quotes.
    pub fn parameter(&self, name: &str) -> Option<&'h str> {
        split(self.parameters, b';').find_map(|parameter| {
            let (found, value) = parameter.split_once('=')?;
            let matches = found.trim().eq_ignore_ascii_case(name);
            matches.then(|| value.trim().trim_matches('"'))
        })
    }

    /// Name and value, where the item is a member of a dictionary.
    pub fn member(&self) -> Option<(&'h str, &'h str)> {
        let (name, value) = self.bare.split_once('=')?;
        (!name.starts_with('"')).then(|| (name.trim(), value.trim()))
    }
}

/// The texts of all headers of this name, in lower case; what is not ASCII says nothing.
pub(super) fn texts<'h>(
    headers: &'h HeaderMap,
    name: &str,
) -> impl Iterator<Item = &'h str> + use<'h> {
    let values = headers.get_all(name).iter();
    values.filter_map(|value| Some(value.to_str().ok()?.trim()))
}

/// The items of the lists in all headers of this name.
pub(super) fn items<'h>(
    headers: &'h HeaderMap,
    name: &str,
) -> impl Iterator<Item = Item<'h>> + use<'h> {
    texts(headers, name)
        .flat_map(|text| split(text, b','))
        .map(Item::new)
}

/// The parts of a text between separators that stand outside of quoted strings.
fn split(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let part = rest?;
        let (mut quoted, mut escaped) = (false, false);
        // Both are ASCII, so a byte that is one begins and ends a character.
        let end = part.bytes().position(|byte| {
            let quote = byte == b'"' && !escaped;
            escaped = quoted && !escaped && byte == b'\\';
            quoted ^= quote;
            byte == separator && !quoted
        });
        let Some(end) = end else {
            return rest.take();
        };
        rest = Some(&part[end + 1..]);
        Some(&part[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_within_quotes_do_not_count() {
        let parts = |text, separator| split(text, separator).collect::<Vec<_>>();
        assert_eq!(parts("a,b,,c", b','), ["a", "b", "", "c"]);
        assert_eq!(parts("", b','), [""]);
        assert_eq!(parts(r#""a,b";c, d"#, b','), [r#""a,b";c"#, " d"]);
        assert_eq!(parts(r#""a\",b",c"#, b','), [r#""a\",b""#, "c"]);
        assert_eq!(parts(r#""a\\",b"#, b','), [r#""a\\""#, "b"]);
        assert_eq!(parts(r#"a,"b,c"#, b','), ["a", r#""b,c"#], "no end");
    }

    #[test]
    fn items_have_parameters() {
        let item = Item::new(r#" "a;b" ; q = 100;W=10;c="x;y";=;flag"#);
        assert_eq!(item.bare, r#""a;b""#);
        let values = ["q", "w", "c", "flag", "x"].map(|name| item.parameter(name));
        assert_eq!(values, [Some("100"), Some("10"), Some("x;y"), None, None]);
        assert_eq!(item.member(), None);
        assert_eq!(Item::new(r#""a=b""#).member(), None);
        assert_eq!(Item::new("limit=100").member(), Some(("limit", "100")));
    }
}
