//! The binary `backfiller`: arguments, logging, exit status; nothing else.

use std::io::Write;
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use rsky_backfiller::backfiller::{self, ExitStatus};
use rsky_backfiller::cli::Cli;
use rsky_backfiller::config::{Config, ConfigError};
use rsky_backfiller::shutdown::Shutdown;

/// From how many bytes on memory is mapped by itself.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAP_FROM: i32 = 512 << 10;

fn main() -> ExitCode {
    map_large_memory();
    // Usage errors end here, with status 2.
    let cli = Cli::parse();
    let config = match Config::from_cli(&cli) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    log_to_stderr(&config.log);
    let shutdown = Shutdown::default();
    if let Err(error) = shutdown.on_signals() {
        log::error!("signals cannot be handled: {error}");
        return ExitCode::from(ExitStatus::Failure as u8);
    }
    ExitCode::from(backfiller::run(config, &shutdown) as u8)
}

/// Left alone, glibc takes large buffers from its heap once one of their size has been given back, and keeps what they leave:
/// with many workers that is more than the budget. Mapped memory goes back at once.
fn map_large_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: a number for the allocator, given before there is another thread; what it refuses changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_FROM);
    }
}

fn refuse(error: &ConfigError) -> ExitCode {
    eprintln!("backfiller: {error}");
    ExitCode::from(ExitStatus::Usage as u8)
}

/// Time, level, thread, text.
fn log_to_stderr(filter: &str) {
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
