//! What the kernel says of processes and of the machine: CPU time, memory, and what else is running.
//!
//! CPU times are those of the scheduler's clock, in nanoseconds: the ticks of `/proc/<pid>/stat` are too coarse for a run of half a
//! second. Only Linux has all of this.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::Pid;

/// CPU time of a process that runs, all its threads, user and system.
pub fn cpu_time(pid: u32) -> Duration {
    let pid = Pid::from_raw(pid.try_into().expect("a process id"));
    cpu_clock(pid).expect("the CPU clock of a child")
}

#[cfg(target_os = "linux")]
fn cpu_clock(pid: Pid) -> nix::Result<Duration> {
    let time = nix::time::clock_gettime(nix::time::clock_getcpuclockid(pid)?)?;
    Ok(time.into())
}

#[cfg(not(target_os = "linux"))]
fn cpu_clock(_: Pid) -> nix::Result<Duration> {
    Err(nix::errno::Errno::ENOSYS)
}

/// CPU time of all children that have been waited for.
pub fn cpu_time_of_the_ended() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the usage of children");
    let time = |value: nix::sys::time::TimeVal| {
        Duration::new(value.tv_sec() as u64, value.tv_usec() as u32 * 1000)
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// The most memory that a process has had, in bytes.
pub fn peak_rss(pid: u32) -> u64 {
    status(pid, "VmHWM:")
}

/// The memory that a process has now, in bytes.
pub fn rss(pid: u32) -> u64 {
    status(pid, "VmRSS:")
}

fn status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the state of a child");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("a size in kB");
    kib * 1024
}

/// CPU time of the whole machine since its start.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub busy: Duration,
    pub total: Duration,
}

impl Machine {
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").expect("/proc/stat");
        let line = stat.lines().next().expect("the line of all processors");
        // Hundredths of a second: user, nice, system, idle, iowait, irq, softirq, steal. What follows is counted in these.
        let ticks: Vec<u64> = line
            .split_ascii_whitespace()
            .skip(1)
            .take(8)
            .map(|word| word.parse().expect("ticks"))
            .collect();
        let total: u64 = ticks.iter().sum();
        let hundredths = |ticks| Duration::from_millis(ticks * 10);
        Machine {
            busy: hundredths(total - ticks[3] - ticks[4]),
            total: hundredths(total),
        }
    }

    /// Busy time since then.
    pub fn busy_since(&self, before: &Machine) -> Duration {
        self.busy.saturating_sub(before.busy)
    }

    /// The share of the machine that was busy since then.
    pub fn share_since(&self, before: &Machine) -> f64 {
        let total = self.total.saturating_sub(before.total).as_secs_f64();
        self.busy_since(before).as_secs_f64() / total.max(0.01)
    }
}

/// The number of processors.
pub fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// One line about the machine, for the reader of a table.
pub fn machine() -> String {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map(|(_, value)| value.trim().to_owned())
    };
    let model = field("/proc/cpuinfo", "model name").unwrap_or_default();
    let kib = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kib: f64 = kib.trim_end_matches(" kB").parse().unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let redis = Command::new("redis-server").arg("--version").output();
    let redis = redis.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let redis = redis.unwrap_or_default();
    let redis = redis
        .split_ascii_whitespace()
        .find(|word| word.starts_with("v="));
    format!(
        "{} cores of {model}, {:.0} GB, Linux {}, Redis {}",
        cores(),
        kib * 1024.0 / 1e9,
        kernel.trim(),
        redis.map_or("?", |word| &word[2..]),
    )
}

/// `target/bench`, wherever the build folder is.
pub fn folder() -> PathBuf {
    let me = env::current_exe().expect("the path of this program");
    // target/<profile>/deps/<name>
    let target = me.ancestors().nth(3).expect("a build folder");
    let folder = target.join("bench");
    fs::create_dir_all(&folder).expect("a folder for the benchmark");
    folder
}
