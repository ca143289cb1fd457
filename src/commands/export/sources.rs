//! What is to be exported: accounts, which are fetched, or CAR files, which are there.
//!
//! A word of the command line says by itself what it is, in this order: `-`, a DID, a file, a handle. Pinned by the tests here and by
//! `tests/export.rs`.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::commands::Failure;
use crate::handle::Handle;
use crate::queue::message::check_did;
use crate::terminal::escaped_bytes;

/// Longest line of a list of accounts, in bytes: a DID has at most 2 KiB.
const MAX_LINE: u64 = 4096;

/// One thing to be exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// An account, by its DID; checked.
    Did(String),
    /// An account, by its handle.
    Handle(Handle),
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
        if let Some(did) = text.filter(|text| text.starts_with("did:")) {
            return account(did).map_err(Failure::Usage);
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
            // Neither syntax has a character that would have to be escaped.
            Origin::Did(did) => f.write_str(did),
            Origin::Handle(handle) => handle.fmt(f),
            Origin::File(path) => f.write_str(&escaped_bytes(path.as_os_str().as_encoded_bytes())),
            Origin::Stdin => f.write_str("standard input"),
        }
    }
}

/// An account by its DID or its handle, with or without `@`.
fn account(text: &str) -> Result<Origin, String> {
    if text.starts_with("did:") {
        return check_did(text).map(|()| Origin::Did(text.to_owned()));
    }
    match Handle::parse(text) {
        Ok(handle) => Ok(Origin::Handle(handle)),
        Err(_) => Err(format!("{text:?} is neither a DID nor a handle")),
    }
}

/// All that is asked for: the words, and the accounts that a list names, one a line; blank lines and those with `#` before them are
/// passed over. The list is read whole before anything begins, so that a mistake in it costs nothing.
///
/// # Errors
/// [`Failure::Usage`] for the first that is nothing of the kind.
pub(super) fn all(
    words: &[impl AsRef<OsStr>],
    list: Option<&Path>,
) -> Result<Vec<Origin>, Failure> {
    let mut origins = Vec::new();
    for word in words {
        origins.push(Origin::parse(word.as_ref())?);
    }
    let stdins = origins.iter().filter(|origin| **origin == Origin::Stdin);
    let list_is_stdin = list.is_some_and(|list| list == Path::new("-"));
    if stdins.count() + usize::from(list_is_stdin) > 1 {
        return Err(Failure::Usage(
            "standard input can be read only once".to_owned(),
        ));
    }
    if let Some(list) = list {
        let input: Box<dyn Read> = if list_is_stdin {
            Box::new(io::stdin().lock())
        } else {
            let opened = File::open(list);
            Box::new(opened.map_err(|e| Failure::Usage(format!("{list:?}: {e}")))?)
        };
        read_list(list, input, &mut origins)?;
    }
    if origins.is_empty() {
        return Err(Failure::Usage(
            "nothing to export: name an account or a CAR, or a list with --file".to_owned(),
        ));
    }
    Ok(origins)
}

fn read_list(list: &Path, input: impl Read, origins: &mut Vec<Origin>) -> Result<(), Failure> {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    for number in 1_u64.. {
        let wrong = |e: &dyn fmt::Display| Failure::Usage(format!("{list:?}, line {number}: {e}"));
        line.clear();
        let length = (&mut input).take(MAX_LINE).read_until(b'\n', &mut line);
        if length.map_err(|e| wrong(&e))? == 0 {
            break;
        }
        if line.len() as u64 == MAX_LINE {
            return Err(wrong(&"too long for an account"));
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if !text.is_empty() && !text.starts_with('#') {
            origins.push(account(text).map_err(|e| wrong(&e))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(word: &str) -> Result<Origin, String> {
        Origin::parse(OsStr::new(word)).map_err(|e| e.to_string())
    }

    #[test]
    fn a_word_says_what_it_is() {
        let did = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
        assert_eq!(parse(did), Ok(Origin::Did(did.to_owned())));
        assert_eq!(parse("-"), Ok(Origin::Stdin));
        let alice = Handle::parse("alice.example.com").map(Origin::Handle);
        assert_eq!(parse("alice.example.com"), alice);
        assert_eq!(parse("@Alice.example.com"), alice);
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

    #[test]
    fn a_list_has_an_account_a_line() {
        let mut origins = Vec::new();
        let text = "# accounts\n\n did:plc:abc \r\n@alice.example.com\nbob.example.com";
        read_list(Path::new("list"), text.as_bytes(), &mut origins).expect("a list");
        let shown: Vec<_> = origins.iter().map(Origin::to_string).collect();
        assert_eq!(
            shown,
            ["did:plc:abc", "alice.example.com", "bob.example.com"]
        );
        for bad in [
            "./a.car",
            "did:plc:abc\n\u{1b}[31m",
            "\u{ff}",
            "-",
            &"a".repeat(5000),
        ] {
            let error = read_list(Path::new("list"), bad.as_bytes(), &mut origins);
            let Err(Failure::Usage(text)) = error else {
                panic!("{bad:?} is refused");
            };
            assert!(text.starts_with("\"list\", line "), "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
        }
    }
}
