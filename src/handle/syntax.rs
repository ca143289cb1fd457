//! Handles as they are written (atproto.com/specs/handle).

use std::fmt;

use rsky_syntax::handle::ensure_valid_handle;

/// A handle of valid syntax, in lower case: handles do not differ by case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Handle(String);

impl Handle {
    /// Reads a handle, with or without an `@` before it.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let handle = text.strip_prefix('@').unwrap_or(text);
        ensure_valid_handle(handle).map_err(|e| {
            let e = e.to_string();
            let e = e.trim_start_matches("HandleError: Invalid Handle ");
            format!("handle {handle:?}: {e}")
        })?;
        Ok(Handle(handle.to_ascii_lowercase()))
    }

    /// The handle.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The handle.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_do_not_differ_by_case_or_by_an_at() {
        for text in [
            "alice.example.com",
            "@alice.example.com",
            "ALICE.Example.com",
        ] {
            let handle = Handle::parse(text).unwrap();
            assert_eq!(handle.as_str(), "alice.example.com");
        }
        for text in [
            "",
            "@",
            "alice",
            "alice..com",
            "-a.com",
            "a.com.",
            "a.1",
            "a b.com",
            "é.com",
        ] {
            assert!(Handle::parse(text).is_err(), "{text:?}");
        }
    }
}
