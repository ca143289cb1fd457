//! The program under test: the real binary as a child process, with its log.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::child;
use super::fixture_server::FixtureServer;
use super::redis_server::RedisServer;
use super::wait::{LIMIT, within};

/// Where the binary is: cargo says it to tests; an example finds it beside its own folder.
pub fn binary() -> PathBuf {
    if let Some(path) = option_env!("CARGO_BIN_EXE_backfiller") {
        return path.into();
    }
    let me = env::current_exe().expect("the path of this program");
    let folder = me.ancestors().nth(2).expect("a build folder");
    let path = folder.join(format!("backfiller{}", env::consts::EXE_SUFFIX));
    assert!(
        path.is_file(),
        "{} is not there: build the binary first (cargo build)",
        path.display()
    );
    path
}

/// How a [`Backfiller`] is to be started.
pub struct Builder {
    env: BTreeMap<OsString, OsString>,
    args: Vec<OsString>,
    largest_file: Option<u64>,
}

impl Builder {
    /// Sets a variable, or replaces one that the harness has set.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    /// Takes back a variable that the harness has set.
    pub fn env_remove(mut self, key: impl Into<OsString>) -> Self {
        self.env.remove(&key.into());
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// No file that it writes gets larger than so many bytes, as on a disk that is full then; pipes and sockets are no files.
    pub fn largest_file(mut self, bytes: u64) -> Self {
        self.largest_file = Some(bytes);
        self
    }

    /// Starts the program and returns at once.
    pub fn start(self) -> Backfiller {
        let mut command = match self.largest_file {
            None => Command::new(binary()),
            Some(bytes) => {
                // The shell becomes the program, which inherits both the limit and that its signal is ignored.
                let mut command = Command::new("sh");
                let limit = format!(
                    "trap '' XFSZ; ulimit -S -f {}; exec \"$0\" \"$@\"",
                    bytes / 512
                );
                command.args(["-c", &limit]).arg(binary());
                command
            }
        };
        command
            .args(&self.args)
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = child::spawn(command).expect("the backfiller binary starts");
        let log = Arc::new(Log::default());
        let out = child.stdout.take().expect("a pipe");
        let err = child.stderr.take().expect("a pipe");
        let readers = vec![
            capture(out, Source::Stdout, &log),
            capture(err, Source::Stderr, &log),
        ];
        Backfiller {
            child,
            status: None,
            log,
            readers,
        }
    }
}

/// A started program. It is killed when dropped, and a test that fails then shows its log.
pub struct Backfiller {
    child: Child,
    status: Option<ExitStatus>,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
}

impl Backfiller {
    /// A program that talks to these two servers, in an environment with nothing else in it but
    /// `PATH` and `HOME`. Each one gets a consumer name of its own.
    pub fn builder(redis: &RedisServer, fixture: &FixtureServer) -> Builder {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let consumer = format!("consumer-{}-{number}", std::process::id());
        let mut builder = Builder {
            env: BTreeMap::new(),
            args: Vec::new(),
            largest_file: None,
        };
        for key in ["PATH", "HOME"] {
            if let Some(value) = env::var_os(key) {
                builder = builder.env(key, value);
            }
        }
        builder
            .env("REDIS_URL", redis.url())
            .env("BACKFILLER_CONSUMER", consumer)
            .env("BACKFILLER_PLC_URL", fixture.url())
            .env("RUST_LOG", "info")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far on both outputs, as it arrived.
    pub fn lines(&self) -> Vec<String> {
        let printed = self.log.lock();
        printed.lines.iter().map(|(_, line)| line.clone()).collect()
    }

    /// What it has printed so far on standard output alone.
    pub fn stdout_lines(&self) -> Vec<String> {
        let printed = self.log.lock();
        let lines = printed.lines.iter();
        lines
            .filter(|(source, _)| *source == Source::Stdout)
            .map(|(_, line)| line.clone())
            .collect()
    }

    /// The first line, already printed or still to come, for which `wanted` holds.
    #[track_caller]
    pub fn wait_for_line(&self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut printed = self.log.lock();
        let mut seen = 0;
        loop {
            while let Some((_, line)) = printed.lines.get(seen) {
                if wanted(line) {
                    return line.clone();
                }
                seen += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = printed.closed == OUTPUTS;
            if ended || left.is_zero() {
                // The drop of a failing test's program prints the log, and needs the lock for that.
                drop(printed);
                let how = if ended {
                    "the program ended"
                } else {
                    "time is up"
                };
                panic!("the line that was waited for was not printed: {how}");
            }
            printed = match self.log.changed.wait_timeout(printed, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Sends a signal. A program that was waited for is gone: that is a mistake of the test.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        assert!(self.status.is_none(), "the program has ended already");
        signal::kill(self.nix_pid(), signal).expect("the signal is sent");
    }

    /// Takes back [`Builder::largest_file`].
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code, reason = "nix has no call for it")]
    #[track_caller]
    pub fn allow_all_files(&self) {
        let limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        let pid = self.nix_pid().as_raw();
        // SAFETY: the first pointer is to a limit that outlives the call, and the second one may be null.
        let result =
            unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    /// Waits for its end; all it has printed is in [`Self::lines`] then. Panics when it goes on for
    /// a minute.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let Some(status) = within(LIMIT, || self.poll()) else {
            panic!("the program still runs after {} s", LIMIT.as_secs());
        };
        for reader in self.readers.drain(..) {
            reader.join().expect("the log is read");
        }
        status
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> ExitStatus {
        if self.poll().is_none() {
            let _ = self.child.kill();
        }
        self.wait()
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self
                .child
                .try_wait()
                .expect("the state of a child is known");
        }
        self.status
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a process id"))
    }
}

impl Drop for Backfiller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        if thread::panicking() {
            eprintln!("--- log of backfiller {}", self.child.id());
            for line in self.lines() {
                eprintln!("{line}");
            }
            eprintln!("--- end of log");
        }
    }
}

/// How many outputs are captured.
const OUTPUTS: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Stdout,
    Stderr,
}

#[derive(Default)]
struct Printed {
    lines: Vec<(Source, String)>,
    /// How many outputs have come to their end.
    closed: usize,
}

#[derive(Default)]
struct Log {
    printed: Mutex<Printed>,
    changed: Condvar,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Printed> {
        self.printed
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn capture(pipe: impl Read + Send + 'static, source: Source, log: &Arc<Log>) -> JoinHandle<()> {
    let log = Arc::clone(log);
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            log.lock().lines.push((source, text));
            log.changed.notify_all();
            line.clear();
        }
        log.lock().closed += 1;
        log.changed.notify_all();
    })
}
