//! Accounts as the operator names them: a DID or a handle, a word or a line each.
//!
//! [`enqueue`](super::enqueue) and [`export`](super::export) read them by the same rules: an `at://` or an `@` before the name is no
//! part of it, blank lines say nothing and neither do those that begin with `#`. Pinned by the tests here.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::Failure;
use crate::handle::Handle;
use crate::queue::message::check_did;

/// Longest line that is read, in bytes: a message has a DID of at most 2 KiB, a host and little else.
const MAX_LINE: u64 = 64 * 1024;

/// What an account is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// Its DID; checked.
    Did(String),
    /// Its handle.
    Handle(Handle),
}

impl Name {
    /// Reads a DID or a handle.
    ///
    /// # Errors
    /// Why it is neither, in words that leave it to the caller to say what was read.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix("at://").unwrap_or(text);
        if text.starts_with("did:") {
            return check_did(text).map(|()| Name::Did(text.to_owned()));
        }
        Handle::parse(text)
            .map(Name::Handle)
            .map_err(|why| format!("neither a DID nor a handle ({why})"))
    }
}

impl fmt::Display for Name {
    /// Neither syntax has a character that would have to be escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Did(did) => f.write_str(did),
            Name::Handle(handle) => handle.fmt(f),
        }
    }
}

/// The lines of a list that say something, trimmed.
pub(super) struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    name: String,
    /// The one that was read last, from 1.
    number: u64,
    line: Vec<u8>,
}

impl Lines {
    /// Opens these lists, standard input (`-`) last and once, so that one that is missing is known before anything begins.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a file that cannot be read.
    pub(super) fn open(files: &[PathBuf]) -> Result<Vec<Self>, Failure> {
        let is_stdin = |file: &&PathBuf| *file == Path::new("-");
        let mut lists = Vec::new();
        for file in files.iter().filter(|file| !is_stdin(file)) {
            let opened = File::open(file).and_then(|opened| {
                // Reading a folder would fail with the first line only.
                let is_folder = opened.metadata()?.is_dir();
                let error = io::Error::from(io::ErrorKind::IsADirectory);
                if is_folder { Err(error) } else { Ok(opened) }
            });
            let opened =
                opened.map_err(|e| Failure::Usage(format!("{file:?} cannot be read: {e}")))?;
            lists.push(Lines::of(Box::new(opened), format!("{file:?}")));
        }
        if files.iter().any(|file| is_stdin(&file)) {
            lists.push(Lines::of(
                Box::new(io::stdin()),
                "standard input".to_owned(),
            ));
        }
        Ok(lists)
    }

    /// The lines of something that is called so.
    pub(super) fn of(input: Box<dyn Read + Send>, name: String) -> Self {
        Lines {
            reader: BufReader::new(input),
            name,
            number: 0,
            line: Vec::new(),
        }
    }

    /// The next line that says something; `None`: there is none.
    ///
    /// # Errors
    /// That reading failed, in words, or that a line has no end in sight. There is nothing more to read then.
    pub(super) fn next(&mut self) -> Result<Option<String>, String> {
        loop {
            self.line.clear();
            self.number += 1;
            let mut reader = self.reader.by_ref().take(MAX_LINE);
            let read = reader.read_until(b'\n', &mut self.line);
            if read.map_err(|e| self.wrong(e))? == 0 {
                return Ok(None);
            }
            if self.line.len() as u64 == MAX_LINE && !self.line.ends_with(b"\n") {
                return Err(self.wrong(format_args!("longer than {MAX_LINE} bytes")));
            }
            let text = String::from_utf8_lossy(&self.line);
            // Files from elsewhere begin with a byte order mark.
            let text = text.trim_start_matches('\u{feff}').trim();
            if !text.is_empty() && !text.starts_with('#') {
                return Ok(Some(text.to_owned()));
            }
        }
    }

    /// What is wrong with the line that was read last, in words that say which it is.
    pub(super) fn wrong(&self, what: impl fmt::Display) -> String {
        format!("line {} of {}: {what}", self.number, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let input = Box::new(io::Cursor::new(text.to_owned()));
        let mut lines = Lines::of(input, "it".to_owned());
        let mut all = Vec::new();
        loop {
            match lines.next() {
                Ok(Some(line)) => all.push(line),
                Ok(None) => return all,
                Err(error) => {
                    all.push(error);
                    return all;
                }
            }
        }
    }

    #[test]
    fn a_line_says_something_or_is_passed_over() {
        let text = "\u{feff}did:plc:abc\r\n\n  # a comment\n\t@Alice.example.com \n \nlast";
        assert_eq!(read(text), ["did:plc:abc", "@Alice.example.com", "last"]);
        assert_eq!(read(""), [""; 0]);
        let long = format!("\ndid:plc:abc\n{}\nnever read", "a".repeat(70_000));
        let error = "line 3 of it: longer than 65536 bytes";
        assert_eq!(read(&long), ["did:plc:abc", error]);
        // With its end it is as long as a line may be.
        let longest = "a".repeat(MAX_LINE as usize - 1);
        assert_eq!(read(&format!("{longest}\nb")), [&longest, "b"]);
    }

    #[test]
    fn a_name_is_a_did_or_a_handle() {
        let shown = |text: &str| Name::parse(text).map(|name| name.to_string());
        for did in ["did:plc:abc", "did:web:a.example"] {
            assert_eq!(Name::parse(did), Ok(Name::Did(did.to_owned())));
            assert_eq!(shown(&format!("at://{did}")), Ok(did.to_owned()));
        }
        for handle in [
            "alice.example.com",
            "@Alice.example.com",
            "at://alice.example.com",
        ] {
            assert_eq!(shown(handle), Ok("alice.example.com".to_owned()));
        }
        for bad in [
            "",
            "-",
            "nobody",
            "did:",
            "did:key:z",
            "did:plc:a b",
            "a\u{1b}[2J",
            "./a.car",
        ] {
            let error = Name::parse(bad).expect_err(bad);
            assert!(!error.contains('\u{1b}'), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_known_before_anything_begins() {
        for bad in ["src", "no/such/file"] {
            let opened = Lines::open(&["Cargo.toml".into(), bad.into()]);
            let error = opened.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(
                error.starts_with(&format!("{bad:?} cannot be read: ")),
                "{error}"
            );
        }
        let lists = Lines::open(&["-".into(), "Cargo.toml".into(), "-".into()]);
        let names: Vec<_> = lists
            .expect("lists")
            .into_iter()
            .map(|it| it.name)
            .collect();
        assert_eq!(names, ["\"Cargo.toml\"", "standard input"]);
    }
}
