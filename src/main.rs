//! The binary `backfiller`: arguments and exit status; nothing else.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use rsky_backfiller::backfiller::ExitStatus;
use rsky_backfiller::cli::CommandLine;
use rsky_backfiller::commands::{self, Command, Failure};
use rsky_backfiller::redact::redact;

/// From how many bytes on memory is mapped by itself.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAP_FROM: i32 = 512 << 10;

fn main() -> ExitCode {
    map_large_memory();
    // Usage errors end here, with status 2.
    let CommandLine { command, worker } = match CommandLine::try_parse() {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error),
    };
    let command = command.unwrap_or_else(|| Command::Run(Box::new(worker)));
    let status = commands::run(command).unwrap_or_else(|failure| {
        if !matches!(failure, Failure::NobodyReads) {
            // Where it cannot be written, the status says it.
            let _ = writeln!(io::stderr(), "backfiller: {failure}");
        }
        failure.status()
    });
    ExitCode::from(status as u8)
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

/// What clap says, without the passwords of URLs, with a scheme or without, that stand where no argument is expected, which it repeats: the
/// whole argument, or what stands behind the `=` of an option.
fn usage(error: &clap::Error) -> ExitCode {
    let said = error.render().to_string();
    let arguments = std::env::args_os().filter_map(|argument| argument.into_string().ok());
    let values = arguments.flat_map(|argument| {
        let value = argument.split_once('=').map(|(_, value)| value.to_owned());
        [Some(argument), value].into_iter().flatten()
    });
    let is_url = |value: &String| {
        let value = value.to_ascii_lowercase();
        value.contains(":/") || value.contains('@') || value.starts_with("redis")
    };
    let urls = values.filter(is_url);
    let shown = urls.fold(said.clone(), |text, url| text.replace(&url, &redact(&url)));
    // Where it cannot be written, the status says it.
    let _ = match shown == said {
        true => error.print(),
        false => io::stderr().write_all(shown.as_bytes()),
    };
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(ExitStatus::Usage as u8))
}
