//! Which letters are meant, and what is said where they are not there. Pinned by `tests/dead_letters_command.rs`.

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::Change;
use super::scan::Scan;
use crate::commands::Failure;
use crate::error::Reason;
use crate::queue::EntryId;
use crate::terminal::count;

/// How many ids are named in an error.
const NAMED: usize = 5;

/// Which letters; all that is said must hold.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Which letters")]
pub(super) struct Selection {
    /// Only of this reason; may be given more than once
    #[arg(long, value_name = "REASON", value_parser = PossibleValuesParser::new(Reason::ALL.map(Reason::code)))]
    pub reason: Vec<String>,

    /// Only of this account; may be given more than once
    #[arg(long, value_name = "DID", value_parser = did)]
    pub did: Vec<String>,

    /// Only the letter with this id of its own; may be given more than once
    #[arg(long, value_name = "ID", value_parser = entry_id)]
    pub id: Vec<EntryId>,

    /// Only the letter whose message had this id in the input; may be given more than once
    #[arg(long, value_name = "ID", value_parser = entry_id)]
    pub original_id: Vec<EntryId>,

    /// No more than so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,

    /// The newest first, instead of the oldest
    #[arg(long)]
    pub newest: bool,
}

impl Selection {
    /// Whether nothing is said of which letters.
    pub fn is_open(&self) -> bool {
        self.reason.is_empty()
            && self.did.is_empty()
            && self.id.is_empty()
            && self.original_id.is_empty()
    }

    /// Refuses to change all letters because nothing was said.
    pub fn insist(&self, change: &Change) -> Result<(), Failure> {
        match (self.is_open(), change.all) {
            (true, false) => Err(Failure::Usage(
                "which letters? --reason, --did, --id, --original-id, or --all for each of them"
                    .to_owned(),
            )),
            (false, true) => Err(Failure::Usage(
                "--all and a selection contradict each other".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Who names a letter has an answer coming that it is not there, or that something else that he said does not hold of it.
    /// `met`: letters with which something was done, or that cannot be requeued.
    pub fn found(&self, scan: &Scan, met: u64) -> Result<(), Failure> {
        let missing = scan.missing();
        let is_named = !(self.id.is_empty() && self.original_id.is_empty());
        let text = if !missing.is_empty() {
            let has = match self.id.is_empty() {
                true => "is of a message with",
                false => "has",
            };
            format!("no dead letter {has} the id {}", listed(&missing))
        } else if !is_named || met > 0 {
            return Ok(());
        } else if scan.selected() == 0 {
            "none of the named letters fits the rest of the selection".to_owned()
        } else {
            "the named letters were gone when it was their turn".to_owned()
        };
        Err(Failure::Failed(text))
    }
}

fn listed(ids: &[EntryId]) -> String {
    let named: Vec<_> = ids.iter().take(NAMED).map(EntryId::to_string).collect();
    let more = match ids.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {} more", count(more as u64)),
    };
    named.join(", ") + &more
}

/// A DID, be it one that no message should have named: there are letters of such messages. But a handle is none.
fn did(text: &str) -> Result<String, String> {
    match text.starts_with("did:") {
        true => Ok(text.to_owned()),
        false => Err("a DID begins with did:".to_owned()),
    }
}

/// The id of an entry, as Redis writes it.
pub(super) fn entry_id(text: &str) -> Result<EntryId, String> {
    EntryId::parse(text)
        .ok_or_else(|| "the id of an entry is two numbers, as 1764000000000-0".into())
}
