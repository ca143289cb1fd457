//! The accounts that the operator names: each argument and each line is one, or says nothing.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::message::Hints;
use crate::commands::Failure;
use crate::fetch::host::Host;
use crate::handle::Handle;
use crate::queue::Message;
use crate::queue::message::check_did;

/// Longest line that is read, in bytes: a message has a DID of at most 2 KiB, a host and little else.
const MAX_LINE: u64 = 64 * 1024;

/// An account, as far as it is known before anybody is asked.
#[derive(Debug)]
pub(super) struct Wanted {
    pub name: Name,
    /// The server to ask, where the line says it.
    pub host: Option<Host>,
    pub hints: Hints,
}

/// What an account is called.
#[derive(Debug)]
pub(super) enum Name {
    Did(String),
    Handle(Handle),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Did(did) => f.write_str(did),
            Name::Handle(handle) => handle.fmt(f),
        }
    }
}

/// Where accounts come from.
pub(super) enum Input {
    Arguments(Vec<String>),
    /// Lines of a file or of standard input.
    Lines(Box<dyn Read + Send>, String),
}

/// Opens all that accounts are read from, so that one that is missing is known before anything is enqueued.
///
/// # Errors
/// [`Failure::Usage`] for a file that cannot be opened.
pub(super) fn open(accounts: &[String], files: &[PathBuf]) -> Result<Vec<Input>, Failure> {
    let (dashes, named): (Vec<_>, Vec<_>) =
        accounts.iter().cloned().partition(|account| account == "-");
    let mut inputs = vec![Input::Arguments(named)];
    for file in files.iter().filter(|file| *file != Path::new("-")) {
        let name = file.display().to_string();
        let opened = File::open(file).and_then(|opened| {
            // Reading a folder would fail with the first line only.
            let is_folder = opened.metadata()?.is_dir();
            let error = io::Error::from(io::ErrorKind::IsADirectory);
            if is_folder { Err(error) } else { Ok(opened) }
        });
        let opened = opened.map_err(|e| Failure::Usage(format!("{name:?} cannot be read: {e}")))?;
        inputs.push(Input::Lines(Box::new(opened), name));
    }
    if !dashes.is_empty() || files.iter().any(|file| file == Path::new("-")) {
        inputs.push(Input::Lines(
            Box::new(io::stdin()),
            "standard input".to_owned(),
        ));
    }
    Ok(inputs)
}

impl Input {
    /// Hands out each account, or what was written and why it is none; ends when `take` returns `false`.
    ///
    /// # Errors
    /// That reading failed, in words.
    pub fn read(
        self,
        mut take: impl FnMut(Result<Wanted, (String, String)>) -> bool,
    ) -> Result<(), String> {
        let mut parsed = |text: &str| match parse(text) {
            Ok(wanted) => take(Ok(wanted)),
            Err(why) => take(Err((text.to_owned(), why))),
        };
        let (reader, name) = match self {
            Input::Arguments(accounts) => {
                accounts.iter().all(|account| parsed(account));
                return Ok(());
            }
            Input::Lines(reader, name) => (reader, name),
        };
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            let failed = |e: &dyn std::fmt::Display| format!("line {number} of {name}: {e}");
            if read.map_err(|e| failed(&e))? == 0 {
                return Ok(());
            }
            if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") {
                return Err(failed(&format_args!("longer than {MAX_LINE} bytes")));
            }
            let text = String::from_utf8_lossy(&line);
            // Files from elsewhere begin with a byte order mark.
            let text = text.trim_start_matches('\u{feff}').trim();
            if !text.is_empty() && !text.starts_with('#') && !parsed(text) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Reads a DID, a handle or a message.
fn parse(text: &str) -> Result<Wanted, String> {
    let text = text.trim();
    let named = |name| Wanted {
        name,
        host: None,
        hints: Hints::default(),
    };
    if text.starts_with('{') {
        let message = Message::parse(text.as_bytes()).map_err(|e| e.text)?;
        // It was an object a moment ago.
        let fields: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        return Ok(Wanted {
            name: Name::Did(message.did),
            host: message.host,
            hints: Hints::read(&fields, message.rev),
        });
    }
    let text = text.strip_prefix("at://").unwrap_or(text);
    if text.starts_with("did:") {
        check_did(text)?;
        return Ok(named(Name::Did(text.to_owned())));
    }
    Handle::parse(text).map(|handle| named(Name::Handle(handle)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let input = Input::Lines(Box::new(io::Cursor::new(text.to_owned())), "it".to_owned());
        let mut all = Vec::new();
        let end = input.read(|it| {
            all.push(match it {
                Ok(Wanted {
                    name: Name::Did(did),
                    host,
                    ..
                }) => {
                    format!("{did} {}", host.map(|h| h.to_string()).unwrap_or_default())
                }
                Ok(Wanted {
                    name: Name::Handle(handle),
                    ..
                }) => format!("@{handle}"),
                Err((text, _)) => format!("not {text}"),
            });
            true
        });
        all.extend(end.err());
        all
    }

    #[test]
    fn a_line_is_an_account_or_says_nothing() {
        let text = "\u{feff}did:plc:abc\r\n\n  # a comment\n\t@Alice.example.com \nat://did:web:a.example\n\
                    {\"did\":\"did:plc:abd\",\"host\":\"pds.example\"}\n{\"did\":7}\ndid:key:z\nnobody\nlast.example.com";
        assert_eq!(
            read(text),
            [
                "did:plc:abc ",
                "@alice.example.com",
                "did:web:a.example ",
                "did:plc:abd pds.example",
                "not {\"did\":7}",
                "not did:key:z",
                "not nobody",
                "@last.example.com",
            ]
        );
        let long = format!("did:plc:abc\ndid:plc:{}\n", "a".repeat(70_000));
        assert_eq!(read(&long)[1], "line 2 of it: longer than 65536 bytes");
        assert_eq!(read(""), [""; 0]);
    }
}
