//! What a process holds, as the system counts it.

use std::fs;

/// The threads, descriptors and memory of a process.
#[derive(Debug)]
pub struct Resources {
    /// The names of the threads, sorted.
    pub threads: Vec<String>,
    /// What each open descriptor is.
    pub descriptors: Vec<String>,
    /// The most resident memory that it ever had (VmHWM), in KiB.
    pub peak: u64,
    /// The resident memory that it has (VmRSS), in KiB.
    pub resident: u64,
}

impl Resources {
    pub fn of(pid: u32) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the threads");
        // A thread or a descriptor may go away between the listing and the look at it.
        let mut threads: Vec<_> = tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .map(|name| name.trim_end().to_owned())
            .collect();
        threads.sort();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the descriptors");
        let descriptors = descriptors
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .map(|target| target.display().to_string())
            .collect();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the status");
        let kibibytes = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.expect("a number")
        };
        Self {
            threads,
            descriptors,
            peak: kibibytes("VmHWM:"),
            resident: kibibytes("VmRSS:"),
        }
    }
}
