//! What is to be enqueued: each argument and each line is an account, or a message as JSON.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::message::Hints;
use crate::commands::Failure;
use crate::commands::accounts::{Lines, Name};
use crate::fetch::host::Host;
use crate::queue::Message;

/// An account, as far as it is known before anybody is asked.
#[derive(Debug)]
pub(super) struct Wanted {
    pub name: Name,
    /// The server to ask, where the line says it.
    pub host: Option<Host>,
    pub hints: Hints,
}

impl Wanted {
    /// Reads a DID, a handle or a message.
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !text.starts_with('{') {
            return Ok(Wanted {
                name: Name::parse(text)?,
                host: None,
                hints: Hints::default(),
            });
        }
        let message = Message::parse(text.as_bytes()).map_err(|e| e.text)?;
        // It was an object a moment ago.
        let fields: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        Ok(Wanted {
            name: Name::Did(message.did),
            host: message.host,
            hints: Hints::read(&fields, message.rev),
        })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

/// Where accounts come from.
pub(super) enum Input {
    Arguments(Vec<String>),
    Lines(Lines),
}

/// Opens all that accounts are read from, so that one that is missing is known before anything is enqueued.
///
/// # Errors
/// [`Failure::Usage`] for a file that cannot be opened.
pub(super) fn open(accounts: &[String], files: &[PathBuf]) -> Result<Vec<Input>, Failure> {
    let (dashes, named): (Vec<_>, Vec<_>) =
        accounts.iter().cloned().partition(|account| account == "-");
    let dashes = dashes.into_iter().map(PathBuf::from);
    let files: Vec<_> = files.iter().cloned().chain(dashes).collect();
    let lists = Lines::open(&files)?.into_iter().map(Input::Lines);
    Ok([Input::Arguments(named)].into_iter().chain(lists).collect())
}

impl Input {
    /// Hands out what is written and the account, or why it is none; ends when `take` returns `false`.
    ///
    /// # Errors
    /// That reading failed, in words.
    pub fn read(
        self,
        mut take: impl FnMut(&str, Result<Wanted, String>) -> bool,
    ) -> Result<(), String> {
        let mut parsed = |text: &str| take(text, Wanted::parse(text));
        match self {
            Input::Arguments(accounts) => {
                accounts.iter().all(|account| parsed(account));
            }
            Input::Lines(mut lines) => {
                while let Some(line) = lines.next()? {
                    if !parsed(&line) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn read(text: &str) -> Vec<String> {
        let input = Box::new(Cursor::new(text.to_owned()));
        let input = Input::Lines(Lines::of(input, "it".to_owned()));
        let mut all = Vec::new();
        let end = input.read(|text, it| {
            all.push(match it {
                Ok(Wanted { name, host, .. }) => {
                    let host = host.map(|h| h.to_string()).unwrap_or_default();
                    format!("{name} {host}").trim_end().to_owned()
                }
                Err(_) => format!("not {text}"),
            });
            true
        });
        all.extend(end.err());
        all
    }

    #[test]
    fn a_line_is_an_account_or_a_message() {
        let text = "did:plc:abc\n@Alice.example.com\n{\"did\":\"did:plc:abd\",\"host\":\"pds.example\"}\n\
                    {\"did\":7}\n{\ndid:key:z\nnobody\nlast.example.com";
        assert_eq!(
            read(text),
            [
                "did:plc:abc",
                "alice.example.com",
                "did:plc:abd pds.example",
                "not {\"did\":7}",
                "not {",
                "not did:key:z",
                "not nobody",
                "last.example.com",
            ]
        );
        let long = format!("did:plc:abc\ndid:plc:{}\n", "a".repeat(70_000));
        assert_eq!(read(&long)[1], "line 2 of it: longer than 65536 bytes");
    }
}
