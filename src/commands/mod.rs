//! The commands beside the worker: for the one who runs it.
//!
//! Each command is a module with its options and one function that does it; this one names them, in the order of `--help`, and turns
//! how one ended into an exit status. What a command answers goes to standard output and nothing else does; errors are one line on
//! standard error. A reader that has seen enough (`backfiller … | head`) ends a command quietly, and well
//! but for `export`, whose status says whether all was written. Pinned by `tests/command_line.rs` and `tests/export_output.rs`.

mod accounts;
mod check;
mod dead_letters;
mod documents;
mod enqueue;
mod export;
mod server;
mod status;

use std::io::{self, Write};

use clap::Subcommand;
use clap_complete::Shell;
use log::Level;

use crate::backfiller::{self, ExitStatus};
use crate::cli::Cli;
use crate::config::{Config, ConfigError};
use crate::logging::{self, Format};
use crate::shutdown::Shutdown;

/// What can be done.
// A comment on a command that has its options elsewhere would take the place of what stands there, which is the text of its page.
#[derive(Subcommand, Debug)]
pub enum Command {
    #[allow(missing_docs)]
    Run(Box<Cli>),

    #[allow(missing_docs)]
    Enqueue(Box<enqueue::Enqueue>),

    #[allow(missing_docs)]
    Status(Box<status::Status>),

    #[allow(missing_docs)]
    DeadLetters(Box<dead_letters::DeadLetters>),

    #[allow(missing_docs)]
    #[command(after_help = export::EXAMPLES)]
    Export(Box<export::Options>),

    #[allow(missing_docs)]
    Check(Box<check::Check>),

    /// Prints the completions for a shell
    #[command(after_help = documents::COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell they are for
        shell: Shell,
    },

    /// Prints the man page of the program or of one of its commands
    #[command(after_help = documents::MAN_EXAMPLES)]
    Man {
        /// The command, and perhaps one of its own; none means the program
        command: Vec<String>,
    },

    /// Prints a systemd unit for any number of instances, with few rights and limits that fit the settings
    #[command(after_help = documents::unit::EXAMPLES)]
    SystemdUnit(documents::unit::Options),

    /// Prints a Grafana dashboard over the metrics of all instances
    #[command(after_help = documents::DASHBOARD_EXAMPLES)]
    GrafanaDashboard,

    /// Prints alert rules for Prometheus
    #[command(after_help = documents::ALERTS_EXAMPLES)]
    AlertRules,
}

/// Why a command has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line, the configuration or the input is wrong; nothing was begun.
    #[error("{0}")]
    Usage(String),
    /// It failed on the way.
    #[error("{0}")]
    Failed(String),
    /// Whoever reads the answer has gone.
    #[error("the reader of the output has gone")]
    NobodyReads,
}

impl Failure {
    /// How the process ends then.
    pub fn status(&self) -> ExitStatus {
        match self {
            Failure::Usage(_) => ExitStatus::Usage,
            Failure::Failed(_) => ExitStatus::Failure,
            Failure::NobodyReads => ExitStatus::Done,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Usage(error.to_string())
    }
}

/// Does what was asked for.
///
/// # Errors
/// Each [`Failure`] of the command.
pub fn run(command: Command) -> Result<ExitStatus, Failure> {
    match command {
        Command::Run(cli) => worker(&cli),
        Command::Enqueue(options) => enqueue::run(&options),
        Command::Status(command) => status::run(*command),
        Command::DeadLetters(command) => dead_letters::run(*command),
        Command::Export(options) => export::export(&options),
        Command::Check(command) => check::run(&command),
        Command::Completions { shell } => answer(&documents::completions(shell)),
        Command::Man { command } => answer(&documents::man::man(&command)?),
        Command::SystemdUnit(options) => answer(documents::unit::unit(options)?.as_bytes()),
        Command::GrafanaDashboard => answer(documents::DASHBOARD.as_bytes()),
        Command::AlertRules => answer(documents::ALERTS.as_bytes()),
    }
}

/// Runs the worker until it is told to end.
fn worker(cli: &Cli) -> Result<ExitStatus, Failure> {
    let config = match Config::from_cli(cli) {
        Ok(config) => config,
        Err(error) if asks_for_objects(cli) => {
            let line = logging::line(Format::Json, Level::Error, &error.to_string(), vec![]);
            // Where it cannot be written, the status says it.
            let _ = io::stderr().write_all(&line);
            return Ok(ExitStatus::Usage);
        }
        Err(error) => return Err(error.into()),
    };
    logging::to_stderr(&config.log, config.log_format);
    let shutdown = Shutdown::default();
    if let Err(error) = shutdown.on_signals() {
        log::error!("~error":% = error; "signals cannot be handled: {error}");
        return Ok(ExitStatus::Failure);
    }
    Ok(backfiller::run(config, &shutdown))
}

/// Whether the log is to be in JSON, as far as that can be told where another value is wrong.
fn asks_for_objects(cli: &Cli) -> bool {
    let format = cli.logs.log_format.as_deref().map(Format::from_name);
    format == Some(Some(Format::Json))
}

/// Prints an answer as a whole.
fn answer(text: &[u8]) -> Result<ExitStatus, Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text)
        .and_then(|()| out.flush())
        .map_err(output_failed)?;
    Ok(ExitStatus::Done)
}

/// What a standard output that cannot be written to means.
fn output_failed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::NobodyReads
    } else {
        Failure::Failed(format!("standard output cannot be written: {error}"))
    }
}
