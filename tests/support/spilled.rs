//! The files that hold the blocks of repos for which there was no room in memory.

use std::fs;
use std::path::Path;

/// The sizes in KiB of the files in this folder that a process has open, of those without a name too.
pub fn sizes(pid: u32, folder: &Path) -> Vec<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the descriptors");
    // A descriptor may go away between the listing and the look at it.
    let files = descriptors.filter_map(|entry| {
        let path = entry.ok()?.path();
        let is_there = fs::read_link(&path).ok()?.starts_with(folder);
        let size = fs::metadata(&path).ok()?.len() / 1024;
        is_there.then_some(size)
    });
    files.collect()
}

/// The names in the folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names.map(|name| name.display().to_string()).collect()
}
