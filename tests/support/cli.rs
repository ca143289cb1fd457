//! The commands beside the worker: run to their end, or on a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::backfiller::binary;
use super::child;
use super::redis_server::RedisServer;
use super::wait::{LIMIT, eventually, within};

/// What a command has come to.
#[derive(Debug)]
pub struct Answer {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// The lines of standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// The lines of standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Vec<serde_json::Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Standard output, of a command that ended well and said nothing else.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""), "{self:?}");
        self
    }

    /// The one line of standard error, of a command that answered nothing and ended with this status.
    #[track_caller]
    pub fn refusal(&self, status: i32) -> &str {
        assert_eq!(
            (self.status, self.stdout.as_str()),
            (status, ""),
            "{self:?}"
        );
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        self.stderr.trim_end()
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Answer {
            status: output.status.code().expect("an exit status"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// A command with this Redis, in an environment with nothing else in it.
pub fn command(redis: &RedisServer, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(args)
        .env_clear()
        .env("REDIS_URL", redis.url())
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end.
#[track_caller]
pub fn run(redis: &RedisServer, args: &[&str]) -> Answer {
    command(redis, args).output().expect("it starts").into()
}

/// A command on a terminal of its own, of which all three streams are. It is killed when dropped.
pub struct OnTerminal {
    child: Child,
    master: File,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl OnTerminal {
    /// Starts it on a terminal of so many columns and lines.
    pub fn start(mut command: Command, columns: u16, lines: u16) -> Self {
        let size = Winsize {
            ws_row: lines,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).expect("a terminal");
        let slave = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("a descriptor"));
        command
            .stdin(slave(&pty.slave))
            .stdout(slave(&pty.slave))
            .stderr(slave(&pty.slave));
        let child = child::spawn(command).expect("it starts");
        drop(pty.slave);
        let master = File::from(pty.master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let (mut master, shown) = (master.try_clone().expect("a descriptor"), shown.clone());
            move || {
                let mut buffer = [0; 4096];
                // An error is the end: nobody has the other side open any more.
                while let Ok(n @ 1..) = master.read(&mut buffer) {
                    shown.lock().unwrap().extend_from_slice(&buffer[..n]);
                }
            }
        });
        OnTerminal {
            child,
            master,
            shown,
            reader: Some(reader),
        }
    }

    /// All that the terminal was sent so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until it was sent this; returns all of it.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, |shown| shown.contains(text))
    }

    /// Waits until this holds of all that it was sent; returns that.
    #[track_caller]
    pub fn wait_until(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let found = within(LIMIT, || Some(self.shown()).filter(|shown| holds(shown)));
        found.unwrap_or_else(|| panic!("not shown: {what}; but {}", self.shown()))
    }

    /// Types a line.
    pub fn type_line(&mut self, text: &str) {
        self.master
            .write_all(format!("{text}\n").as_bytes())
            .expect("the terminal takes it");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a process id"));
        signal::kill(pid, signal).expect("the signal is sent");
    }

    /// Waits for its end; returns how it ended and all that was shown.
    #[track_caller]
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let status = eventually("the command ends", || self.child.try_wait().unwrap());
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the terminal is read");
        }
        (status, self.shown())
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a terminal would take for orders, or show as something else than it is.
pub const HOSTILE: &str =
    "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\r\n\u{202e}evil\u{2066}\u{200b}\u{feff}\0";

/// Asserts that nothing of [`HOSTILE`] is left in what was printed.
#[track_caller]
pub fn assert_harmless(printed: &str) {
    let bad = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}' | '\u{feff}' | '\u{2028}')
    };
    let found = printed.chars().find(|c| bad(*c));
    assert_eq!(found, None, "{printed:?}");
}
