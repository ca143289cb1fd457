//! Child processes that cannot outlive the tests.
//!
//! `Drop` ends a child when a test returns or panics, but not when the test process itself is
//! killed. For that there is Linux's parent-death signal. It is sent when the *thread* that forked
//! ends, and the thread of a test ends long before the process does (and before a server that was
//! handed to another thread); so one thread, which lives as long as the process, does all the
//! forking.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// A child that ends with its owner.
pub struct Running(pub Child);

impl Running {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Order = (Command, Sender<io::Result<Child>>);

/// Starts `command` so that the kernel kills it when this process ends, however it ends.
pub fn spawn(command: Command) -> io::Result<Child> {
    static FORKER: OnceLock<Sender<Order>> = OnceLock::new();
    let forker = FORKER.get_or_init(|| {
        let (orders, received) = channel::<Order>();
        thread::Builder::new()
            .name("forker".into())
            .spawn(move || {
                for (mut command, answer) in received {
                    die_with_this_thread(&mut command);
                    // An asker that is gone leaves a child that nobody wants.
                    if let Err(unwanted) = answer.send(command.spawn())
                        && let Ok(mut child) = unwanted.0
                    {
                        let _ = child.kill();
                        let _ = child.wait();
                    }
                }
            })
            .expect("the forker thread starts");
        orders
    });
    let (answer, answered) = channel();
    forker
        .send((command, answer))
        .expect("the forker thread runs");
    answered.recv().expect("the forker thread answers")
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "pre_exec has no safe form")]
fn die_with_this_thread(command: &mut Command) {
    use nix::sys::{prctl::set_pdeathsig, signal::Signal};
    use nix::unistd::{getpid, getppid};
    use std::os::unix::process::CommandExt;

    let parent = getpid();
    let arm = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // A parent that died before the line above sends nothing any more.
        if getppid() == parent {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls; it neither allocates
    // nor locks.
    unsafe { command.pre_exec(arm) };
}

#[cfg(not(target_os = "linux"))]
fn die_with_this_thread(_: &mut Command) {}
