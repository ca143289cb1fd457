//! The log on standard error: one line for each thing that is said, with time, level, thread and text.

use std::io::Write;
use std::thread;

/// Begins to log what the filter (in env_logger's syntax) lets pass.
pub fn to_stderr(filter: &str) {
    env_logger::Builder::new()
        .parse_filters(filter)
        .format(|out, record| {
            let level = record.level();
            let style = out.default_level_style(level);
            let time = out.timestamp_millis();
            let thread = thread::current();
            let name = thread.name().unwrap_or("-");
            writeln!(
                out,
                "{time} {style}{level:<5}{style:#} [{name}] {}",
                record.args()
            )
        })
        .init();
}
