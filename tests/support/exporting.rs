//! `backfiller export` as a child process: what it writes and what it says, apart from each other. It is told of a Redis that nobody
//! listens for.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tempfile::{NamedTempFile, TempDir};

use super::backfiller::binary;
use super::child::Running;
use super::fixture_server::FixtureServer;
use super::wait::{LIMIT, within};

/// A call that is being put together.
pub struct Export {
    command: Command,
    input: Option<Vec<u8>>,
    /// Whether the caller reads standard output.
    piped: bool,
    /// What standard error is instead of a file.
    errors: Option<File>,
}

/// How a call ended.
pub struct Exported {
    /// The exit status; `None`: a signal.
    pub status: Option<i32>,
    /// Standard output.
    pub output: Vec<u8>,
    /// The lines of standard error.
    pub errors: Vec<String>,
}

/// A call that is running.
pub struct Exporting {
    pub child: Running,
    output: NamedTempFile,
    errors: NamedTempFile,
}

impl Export {
    /// With these arguments, and nothing in the environment but a directory, if there is one.
    pub fn of(directory: Option<&FixtureServer>, args: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.arg("export").args(args).env_clear();
        Self::over(command, directory)
    }

    /// The same, where no file that it writes gets larger than so many bytes, as on a disk that is full then.
    pub fn with_largest_file(bytes: u64, args: &[&str]) -> Self {
        let mut command = Command::new("sh");
        let limit = format!(
            "trap '' XFSZ; ulimit -S -f {}; exec \"$0\" \"$@\"",
            bytes / 512
        );
        command.args(["-c", &limit]).arg(binary()).arg("export");
        command.args(args).env_clear();
        Self::over(command, None)
    }

    fn over(mut command: Command, directory: Option<&FixtureServer>) -> Self {
        for key in ["PATH", "HOME"] {
            if let Some(value) = std::env::var_os(key) {
                command.env(key, value);
            }
        }
        // A port that cannot be listened on.
        command.env("REDIS_URL", "redis://127.0.0.1:0");
        command.env("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true");
        command.env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "20");
        command.env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "50");
        if let Some(directory) = directory {
            command.env("BACKFILLER_PLC_URL", directory.url());
        }
        Export {
            command,
            input: None,
            piped: false,
            errors: None,
        }
    }

    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.command.env(key, value.into());
        self
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.command.arg(arg.into());
        self
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.command.args(args.into_iter().map(Into::into));
        self
    }

    /// Standard input; nothing else.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Standard output is a pipe, which the caller takes out of the child.
    pub fn piped(mut self) -> Self {
        self.piped = true;
        self
    }

    /// Standard error is this, which the caller has the other end of.
    pub fn errors_to(mut self, terminal: File) -> Self {
        self.errors = Some(terminal);
        self
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Exported {
        self.start().wait()
    }

    /// Starts it.
    #[track_caller]
    pub fn start(self) -> Exporting {
        let Export {
            mut command,
            input,
            piped,
            errors: terminal,
        } = self;
        let file = || NamedTempFile::new().expect("a temporary file");
        let (output, errors) = (file(), file());
        let reopened = |file: &NamedTempFile| Stdio::from(file.reopen().expect("the file again"));
        command.stdout(if piped {
            Stdio::piped()
        } else {
            reopened(&output)
        });
        command.stderr(terminal.map_or_else(|| reopened(&errors), Stdio::from));
        command.stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        let mut child: Child = super::child::spawn(command).expect("the binary starts");
        if let (Some(bytes), Some(mut pipe)) = (input, child.stdin.take()) {
            // Whoever has seen enough closes it.
            thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        Exporting {
            child: Running(child),
            output,
            errors,
        }
    }
}

impl Exporting {
    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Exported {
        let child = &mut self.child.0;
        let status = within(LIMIT, || child.try_wait().expect("the state of a child"));
        let read = |file: &NamedTempFile| fs::read(file.path()).expect("what it wrote");
        let errors = String::from_utf8(read(&self.errors)).expect("text on standard error");
        let status = status.unwrap_or_else(|| panic!("it still runs: {errors}"));
        Exported {
            status: status.code(),
            output: read(&self.output),
            errors: errors.lines().map(str::to_owned).collect(),
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.pid().try_into().expect("a process id"));
        signal::kill(pid, signal).expect("the signal is sent");
    }

    /// What it has said so far.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.errors.path()).expect("what it said")
    }
}

impl Exported {
    /// It ended well; returns its lines.
    #[track_caller]
    pub fn lines(&self) -> Vec<String> {
        assert_eq!(self.status, Some(0), "{:#?}", self.errors);
        self.lines_however()
    }

    /// Its lines, each of which is whole.
    #[track_caller]
    pub fn lines_however(&self) -> Vec<String> {
        let text = std::str::from_utf8(&self.output).expect("UTF-8");
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "the last line is cut"
        );
        text.lines().map(str::to_owned).collect()
    }

    /// What it says of one that failed: reason and text.
    #[track_caller]
    pub fn failure(&self, name: &str) -> (&str, &str) {
        let failures = self.failures();
        let mut of = failures.into_iter().filter(|(of, ..)| *of == name);
        match (of.next(), of.next()) {
            (Some((_, reason, text)), None) => (reason, text),
            _ => panic!("not one line for {name}: {:#?}", self.errors),
        }
    }

    /// All lines about what failed: name, reason, text.
    pub fn failures(&self) -> Vec<(&str, &str, &str)> {
        let lines = self.errors.iter();
        lines
            .filter_map(|line| {
                let line = line.strip_prefix("backfiller: ")?;
                let (name, line) = line.split_once(": ")?;
                let (reason, text) = line.split_once(": ")?;
                Some((name, reason, text))
            })
            .filter(|(name, ..)| !matches!(*name, "WARNING" | "waiting"))
            .collect()
    }

    /// It refused what was asked for, in one line, and began nothing.
    #[track_caller]
    pub fn is_refused(&self, what: &str) {
        assert_eq!(self.status, Some(2), "{:#?}", self.errors);
        assert_eq!(self.output, b"");
        let [line] = &self.errors[..] else {
            panic!("not one line: {:#?}", self.errors);
        };
        assert!(line.contains(what), "{what:?} is not said: {line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

/// Files with these contents, in a folder of their own.
pub fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    for (name, bytes) in files {
        let mut file = File::create(folder.path().join(name)).expect("a file");
        file.write_all(bytes).expect("written");
    }
    folder
}

/// The path of a file in a folder, as an argument.
pub fn path(folder: impl AsRef<Path>, name: &str) -> String {
    let path = folder.as_ref().join(name);
    path.to_str().expect("a plain path").to_owned()
}

/// An event without its time, which differs from run to run; all events of a repo have one.
pub fn timeless(line: &str) -> String {
    const MARK: &str = r#","time":""#;
    let (before, rest) = line.split_once(MARK).expect("a time");
    let (time, after) = rest.split_once('"').expect("the end of the time");
    assert_eq!(time.len(), "2025-01-01T00:00:00.000Z".len());
    format!("{before}{after}")
}

/// The lines of one account, in their order.
pub fn lines_of<'l>(lines: &'l [String], did: &str) -> Vec<&'l str> {
    let mark = format!(r#""did":"{did}","commit":"#);
    let of = lines.iter().filter(|line| line.contains(&mark));
    of.map(String::as_str).collect()
}
