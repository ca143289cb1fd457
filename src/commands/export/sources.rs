//! What is to be exported: accounts, which are fetched, or CAR files, which are there.
//!
//! A word of the command line says by itself what it is, in this order: `-`, a DID, a file, a handle. Pinned by the tests here and by
//! `tests/export.rs`.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::commands::Failure;
use crate::commands::accounts::{Lines, Name};
use crate::terminal::escaped_bytes;

/// One thing to be exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// An account.
    Account(Name),
    /// A CAR file.
    File(PathBuf),
    /// A CAR on standard input.
    Stdin,
}

impl Origin {
    /// Reads a word of the command line.
    pub(super) fn parse(word: &OsStr) -> Result<Self, Failure> {
        let path = Path::new(word);
        let text = word.to_str();
        if text == Some("-") {
            return Ok(Origin::Stdin);
        }
        let account = |text: &str| {
            let name = Name::parse(text).map_err(|why| format!("{text:?}: {why}"));
            name.map(Origin::Account)
        };
        let is_did = |text: &&str| text.starts_with("did:") || text.starts_with("at://");
        if let Some(text) = text.filter(is_did) {
            return account(text).map_err(Failure::Usage);
        }
        let is_path = word.as_encoded_bytes().contains(&b'/')
            || path
                .extension()
                .is_some_and(|end| end.eq_ignore_ascii_case("car"));
        if is_path || path.exists() {
            return match fs::metadata(path) {
                Ok(about) if about.is_dir() => {
                    Err(Failure::Usage(format!("{path:?} is a folder, not a CAR")))
                }
                Ok(_) => Ok(Origin::File(path.to_owned())),
                Err(e) => Err(Failure::Usage(format!("{path:?}: {e}"))),
            };
        }
        match text {
            Some(text) => {
                account(text).map_err(|e| Failure::Usage(format!("{e}, nor is it a file")))
            }
            None => Err(Failure::Usage(format!("{path:?}: there is no such file"))),
        }
    }

    /// Whether it is a CAR that is there, and nobody is asked.
    pub(super) fn is_offline(&self) -> bool {
        matches!(self, Origin::File(_) | Origin::Stdin)
    }
}

impl fmt::Display for Origin {
    /// In one line, whatever the name of a file is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Account(name) => name.fmt(f),
            Origin::File(path) => f.write_str(&escaped_bytes(path.as_os_str().as_encoded_bytes())),
            Origin::Stdin => f.write_str("standard input"),
        }
    }
}

/// All that is asked for: the words, and the accounts that lists name, a line each. Lists are read whole before
/// anything begins, so that a mistake in one costs nothing.
///
/// # Errors
/// [`Failure::Usage`] for the first that is nothing of the kind.
pub(super) fn all(words: &[impl AsRef<OsStr>], lists: &[PathBuf]) -> Result<Vec<Origin>, Failure> {
    let mut origins = Vec::new();
    for word in words {
        origins.push(Origin::parse(word.as_ref())?);
    }
    let stdins = origins.iter().filter(|origin| **origin == Origin::Stdin);
    let is_list = lists.iter().any(|list| list == Path::new("-"));
    if stdins.count() + usize::from(is_list) > 1 {
        return Err(Failure::Usage(
            "standard input can be read only once".to_owned(),
        ));
    }
    for list in Lines::open(lists)? {
        read_list(list, &mut origins).map_err(Failure::Usage)?;
    }
    if origins.is_empty() {
        return Err(Failure::Usage(
            "nothing to export: name an account or a CAR, or a list with --file".to_owned(),
        ));
    }
    Ok(origins)
}

fn read_list(mut list: Lines, origins: &mut Vec<Origin>) -> Result<(), String> {
    while let Some(line) = list.next()? {
        let name = Name::parse(&line).map_err(|why| list.wrong(format_args!("{line:?}: {why}")))?;
        origins.push(Origin::Account(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn parse(word: &str) -> Result<Origin, String> {
        Origin::parse(OsStr::new(word)).map_err(|e| e.to_string())
    }

    fn account(name: &str) -> Result<Origin, String> {
        Name::parse(name).map(Origin::Account)
    }

    #[test]
    fn a_word_says_what_it_is() {
        let did = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
        for (word, name) in [
            (did, did),
            ("at://did:web:a.example", "did:web:a.example"),
            ("alice.example.com", "alice.example.com"),
            ("@Alice.example.com", "alice.example.com"),
            ("at://alice.example.com", "alice.example.com"),
        ] {
            assert_eq!(parse(word), account(name), "{word}");
        }
        assert_eq!(parse("-"), Ok(Origin::Stdin));
        // Tests run in the folder of the package.
        let file = |path: &str| Ok(Origin::File(path.into()));
        assert_eq!(parse("Cargo.toml"), file("Cargo.toml"));
        assert_eq!(parse("src/lib.rs"), file("src/lib.rs"));
        for bad in [
            "",
            "x",
            "did:",
            "did:key:zabc",
            "did:plc:a b",
            "src",
            "no.car",
            "./no",
            "a\u{1b}[2J",
        ] {
            let error = parse(bad).expect_err(bad);
            assert!(!error.contains('\u{1b}'), "{error}");
        }
    }

    fn list(text: &str) -> Lines {
        Lines::of(Box::new(Cursor::new(text.to_owned())), "it".to_owned())
    }

    #[test]
    fn a_list_has_an_account_a_line() {
        let mut origins = Vec::new();
        let text = "# accounts\n\n did:plc:abc \r\n@alice.example.com\nbob.example.com";
        read_list(list(text), &mut origins).expect("a list");
        let shown: Vec<_> = origins.iter().map(Origin::to_string).collect();
        assert_eq!(
            shown,
            ["did:plc:abc", "alice.example.com", "bob.example.com"]
        );
        for bad in ["./a.car", "did:plc:abc\n\u{1b}[31m", "-", "Makefile"] {
            let error = read_list(list(bad), &mut origins).expect_err(bad);
            assert!(error.starts_with("line "), "{error}");
            assert!(!error.contains('\u{1b}'), "{error}");
        }
    }
}
