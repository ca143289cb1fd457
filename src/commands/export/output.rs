//! Where the lines go: standard output, or a file that is there when it is whole, and not before.
//!
//! One repo is written at a time, from its first line to its last, so there is one [`Output`], which whoever writes takes and gives
//! back: nobody waits for it past a shutdown, and whoever ends the command takes it last. A file is written under a name of its own beside
//! the one that it is to have, and gets that when all is written. Pinned by `tests/export_output.rs`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use tempfile::NamedTempFile;

use crate::commands::Failure;
use crate::shutdown::Shutdown;
use crate::worker::write::Written;

/// What the name of a file ends with that is not whole yet.
const PART: &str = ".part";

/// Where lines are written to.
pub(super) enum Output {
    /// Whoever reads them decides what is kept.
    Stdout,
    /// A file that gets its name at the end.
    File {
        /// What is written.
        part: NamedTempFile,
        /// The name.
        path: PathBuf,
        /// Whether it takes the place of another.
        force: bool,
    },
}

impl Output {
    /// Standard output, or a new file, which takes the place of one of the same name only with `force`.
    ///
    /// # Errors
    /// [`Failure::Usage`] where that cannot be.
    pub(super) fn create(path: Option<&Path>, force: bool) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Output::Stdout);
        };
        let refuse = |what: &dyn std::fmt::Display| {
            Err(Failure::Usage(format!("--output {path:?}: {what}")))
        };
        match fs::symlink_metadata(path) {
            // To rename over a device or a link would take that away.
            Ok(about) if !about.is_file() => return refuse(&"there is something that is no file"),
            Ok(_) if !force => return refuse(&"the file exists; --force replaces it"),
            _ => {}
        }
        let ends_in_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let Some(name) = path.file_name().filter(|_| !ends_in_slash) else {
            return refuse(&"no name of a file");
        };
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(PART);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As any new file: what the umask leaves of it.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        match builder.tempfile_in(folder.unwrap_or(Path::new("."))) {
            Ok(part) => Ok(Output::File {
                part,
                path: path.to_owned(),
                force,
            }),
            Err(e) => refuse(&e),
        }
    }

    /// The file that is not whole yet.
    pub(super) fn part(&self) -> Option<PathBuf> {
        match self {
            Output::Stdout => None,
            Output::File { part, .. } => Some(part.path().to_owned()),
        }
    }

    /// Writes lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Output::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Output::File { part, .. } => part.write_all(lines),
        }
    }

    /// All is written: a file gets its name, once its bytes are on the disk.
    ///
    /// # Errors
    /// [`Failure::Failed`]; where all is written and only the name cannot be had, it says where that is.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let Output::File { part, path, force } = self else {
            return Ok(());
        };
        let failed = |e: io::Error, more: &str| {
            Failure::Failed(format!("--output {path:?} cannot be written: {e}{more}"))
        };
        part.as_file().sync_all().map_err(|e| failed(e, ""))?;
        let named = match force {
            true => part.persist(&path),
            false => part.persist_noclobber(&path),
        };
        match named {
            Ok(_) => Ok(()),
            Err(e) => {
                // It may have taken hours.
                let kept = e
                    .file
                    .into_temp_path()
                    .keep()
                    .map_err(|e| failed(e.error, ""))?;
                Err(failed(e.error, &format!("; all is in {kept:?}")))
            }
        }
    }
}

/// What was written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    /// Repos, whole ones.
    pub repos: usize,
    /// Records of these that are none.
    pub skipped: u64,
    /// Records of these that were not asked for.
    pub filtered: u64,
}

/// Whose turn it is to write.
#[derive(Clone)]
pub(super) struct Turns {
    give: Sender<(Output, Totals)>,
    take: Receiver<(Output, Totals)>,
}

impl Turns {
    /// Nobody's.
    pub(super) fn new(output: Output) -> Self {
        let (give, take) = bounded(1);
        // There is room for one.
        let _ = give.send((output, Totals::default()));
        Turns { give, take }
    }

    /// Waits for a turn; `None`: shutdown came first.
    pub(super) fn wait(&self, shutdown: &Shutdown) -> Option<Turn<'_>> {
        if shutdown.is_requested() {
            return None;
        }
        select! {
            recv(self.take) -> held => Some(Turn { held: held.ok(), turns: self }),
            recv(shutdown.requested()) -> _ => None,
        }
    }

    /// Waits until whoever writes has written his repo; nobody has a turn after that.
    pub(super) fn end(self) -> Option<(Output, Totals)> {
        self.take.recv().ok()
    }
}

/// A turn to write; dropped, it is the next one's.
pub(super) struct Turn<'t> {
    held: Option<(Output, Totals)>,
    turns: &'t Turns,
}

impl Turn<'_> {
    /// Writes lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match &mut self.held {
            Some((output, _)) => output.write(lines),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// A repo is written to its end; whoever ends the command knows it as soon as the turn is over.
    pub(super) fn count(&mut self, written: &Written) {
        if let Some((_, totals)) = &mut self.held {
            totals.repos += 1;
            totals.skipped += written.skipped;
            totals.filtered += written.filtered;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            // There is one, so there is room for it.
            let _ = self.turns.give.send(held);
        }
    }
}
