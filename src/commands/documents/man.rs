//! `man`: the pages, in the sections that a reader of man pages looks for.
//!
//! clap_mangen makes each section from the description of the command line but two: it puts what stands below the options of a help
//! page into one section and fills its lines, so that examples run into each other, and it takes the name of a command for that of
//! the program it belongs to. Pinned by `tests/command_line.rs`.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::cli::CommandLine;
use crate::commands::Failure;

/// What opens the examples of a help page.
const EXAMPLES: &str = "Examples:";
/// What opens its exit statuses.
const STATUSES: &str = "Exit status: ";

/// The man page of the program, or of the command of this name, or of a command of that.
pub fn man(names: &[String]) -> Result<Vec<u8>, Failure> {
    // `help` prints what the pages say, and has none.
    let mut root = CommandLine::command().disable_help_subcommand(true);
    // Gives each command its full name and its usage line.
    root.build();
    let command = names.iter().try_fold(&root, |command, name| {
        command.find_subcommand(name).ok_or_else(|| {
            Failure::Usage(format!(
                "{name:?} is no command; `backfiller --help` lists them"
            ))
        })
    })?;
    let mut text = Vec::new();
    page(&root, command, &mut text)
        .map_err(|error| Failure::Failed(format!("the man page cannot be made: {error}")))?;
    Ok(text)
}

fn page(root: &Command, command: &Command, out: &mut dyn Write) -> io::Result<()> {
    let version = root.get_version().unwrap_or_default();
    let page = Man::new(command.clone()).source(format!("{} {version}", root.get_name()));
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    if command.get_arguments().any(|option| !option.is_hide_set()) {
        page.render_options_section(out)?;
    }
    if command.has_subcommands() {
        page.render_subcommands_section(out)?;
    }
    if let Some(text) = command.get_after_help() {
        sections(&text.to_string()).to_writer(out)?;
    }
    if command.get_version().is_some() {
        page.render_version_section(out)?;
    }
    Ok(())
}

/// What stands below the options of a help page: examples, what else there is to know, and exit statuses.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::new();
    let mut section = "";
    for paragraph in text.split("\n\n") {
        let (title, paragraph) = match paragraph.strip_prefix(STATUSES) {
            Some(statuses) => ("EXIT STATUS", statuses),
            None if paragraph.starts_with(EXAMPLES) => ("EXAMPLES", paragraph),
            // What follows the statuses is about the end as well.
            None if section == "EXIT STATUS" => (section, paragraph),
            None => ("NOTES", paragraph),
        };
        match title == section {
            true => roff.control("PP", []),
            false => roff.control("SH", [title]),
        };
        section = title;
        if section == "EXAMPLES" {
            roff.control("nf", []);
            for example in paragraph.lines().skip(1) {
                roff.text([roman(example)]);
            }
            roff.control("fi", []);
        } else {
            roff.text([roman(paragraph.replace('\n', " "))]);
        }
    }
    roff
}
