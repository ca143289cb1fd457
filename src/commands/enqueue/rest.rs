//! `--rest`: the accounts that a call has left, where it does not come to its end.
//!
//! Look-ups end as they like, so no line of the input divides what is enqueued from what is not. Accounts are numbered as they are read,
//! those that are [settled](Rest::settle) are kept by their numbers, and at the end the input is read once more, from the same files: what
//! is not settled is the rest, as it stands. Its file is there as a whole or not at all. Pinned by `tests/enqueue.rs`.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::input::{self, Input};
use crate::commands::Failure;

/// What is not settled yet, and where it is written.
pub(super) struct Rest {
    path: PathBuf,
    /// The whole input, once more.
    inputs: Vec<Input>,
    /// All below this are settled.
    below: u64,
    /// Those above it that are: while one look-up waits, the others go on.
    above: BTreeSet<u64>,
}

impl Rest {
    /// Nothing is settled.
    ///
    /// # Errors
    /// [`Failure::Usage`] where there is such a file, none can be made, or the input cannot be read twice.
    pub fn new(path: &Path, accounts: &[String], files: &[PathBuf]) -> Result<Self, Failure> {
        let refuse =
            |what: &dyn std::fmt::Display| Err(Failure::Usage(format!("--rest {path:?}: {what}")));
        let is_file = |file: &PathBuf| file.metadata().is_ok_and(|about| about.is_file());
        let dash = Path::new("-");
        let is_stdin = accounts.iter().any(|it| it == "-") || files.iter().any(|it| it == dash);
        if is_stdin || !files.iter().all(is_file) {
            return refuse(
                &"is for accounts that can be read once more: arguments and files, not pipes",
            );
        }
        if path.symlink_metadata().is_ok() {
            return refuse(&"there is such a file");
        }
        if path.file_name().is_none() {
            return refuse(&"no name of a file");
        }
        match part(path) {
            Ok(_) => Ok(Rest {
                path: path.to_owned(),
                inputs: input::open(accounts, files)?,
                below: 0,
                above: BTreeSet::new(),
            }),
            Err(e) => refuse(&e),
        }
    }

    /// The account of this number is enqueued, or refused.
    pub fn settle(&mut self, number: u64) {
        self.above.insert(number);
        while self.above.remove(&self.below) {
            self.below += 1;
        }
    }

    /// Writes what is not settled, as far as the input can be read.
    ///
    /// # Errors
    /// That it could not be written. There is no such file then.
    pub fn write(self) -> Result<Left, Failure> {
        let failed = |what: &dyn std::fmt::Display| {
            Failure::Failed(format!("--rest {:?} cannot be written: {what}", self.path))
        };
        let mut part = part(&self.path).map_err(|e| failed(&e))?;
        let mut out = io::BufWriter::new(part.as_file_mut());
        let (mut number, mut left, mut broken) = (0, 0, None);
        let mut written = Ok(());
        for input in self.inputs {
            let read = input.read(|text, _| {
                if number >= self.below && !self.above.contains(&number) {
                    left += 1;
                    // An argument may have more than one line, and is refused in any form.
                    written = writeln!(out, "{}", text.replace(['\n', '\r'], " "));
                }
                number += 1;
                written.is_ok()
            });
            // The others are read, as they are the first time.
            broken = broken.or(read.err());
            if written.is_err() {
                break;
            }
        }
        written.and_then(|()| out.flush()).map_err(|e| failed(&e))?;
        drop(out);
        part.as_file().sync_all().map_err(|e| failed(&e))?;
        let named = part.persist_noclobber(&self.path);
        named.map_err(|e| failed(&e.error))?;
        Ok(Left {
            accounts: left,
            path: self.path,
            broken,
        })
    }
}

/// What was left.
pub(super) struct Left {
    /// How many.
    pub accounts: u64,
    /// Where they are.
    pub path: PathBuf,
    /// Where an input could not be read further, if so.
    pub broken: Option<String>,
}

/// A new file beside the one that it is to become.
fn part(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))
}
