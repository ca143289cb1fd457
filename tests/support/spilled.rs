//! The files that hold the blocks of repos for which there was no room in memory.

use std::fs;
use std::path::{Path, PathBuf};

use super::backfiller::Builder;

/// One worker, as little memory as there may be, and this folder; what failed is due again soon.
pub fn frugal(program: Builder, folder: &Path) -> Builder {
    program
        .env("BACKFILLER_CONCURRENCY", "1")
        .env("BACKFILLER_MEMORY_BUDGET_MB", "1")
        .env("BACKFILLER_SPILL_DIR", folder)
        .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "20")
        .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "50")
}

/// The sizes in KiB of the files in this folder that a process has open, of those without a name too.
pub fn sizes(pid: u32, folder: &Path) -> Vec<u64> {
    let files = open(pid, folder).into_iter();
    // It may have been closed meanwhile.
    let lengths = files.filter_map(|file| Some(fs::metadata(file).ok()?.len()));
    lengths.map(|length| length / 1024).collect()
}

/// Takes away all that is in these files.
#[track_caller]
pub fn cut_all(pid: u32, folder: &Path) {
    for file in open(pid, folder) {
        fs::File::create(file).expect("a file that is open");
    }
}

/// Their paths, as long as they are open.
fn open(pid: u32, folder: &Path) -> Vec<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the descriptors");
    // A descriptor may go away between the listing and the look at it.
    let paths = descriptors.filter_map(|entry| Some(entry.ok()?.path()));
    let of_folder = |path: &PathBuf| fs::read_link(path).is_ok_and(|to| to.starts_with(folder));
    paths.filter(of_folder).collect()
}

/// The names in the folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names.map(|name| name.display().to_string()).collect()
}
