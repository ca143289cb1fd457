//! `list` and `show`.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::letter::Letter;
use super::scan::{Scan, by_ids};
use super::selection::Selection;
use super::{Counts, print};
use crate::backfiller::ExitStatus;
use crate::cli::RedisOptions;
use crate::commands::{Failure, server};
use crate::queue::EntryId;
use crate::terminal::{Table, count, escaped, escaped_bytes, number, screen, text};

/// `list`: page by page, as they come.
pub(super) fn list(
    redis: &RedisOptions,
    selection: &Selection,
    only_counts: bool,
    json: bool,
) -> Result<ExitStatus, Failure> {
    let config = server::config(redis)?;
    let mut link = server::connect(&config)?;
    let failed = |error| server::failed(&config, &error);
    let mut scan = Scan::begin(&mut link, &config, selection).map_err(failed)?;
    let columns = [
        text("ID"),
        text("TIME"),
        text("REASON"),
        number("ATTEMPTS"),
        text("DID"),
        text("ERROR"),
    ];
    let mut table = Table::new(&columns, screen().map(|(columns, _)| columns));
    let mut counts = Counts::default();
    while let Some(letters) = scan.next(&mut link).map_err(failed)? {
        for letter in &letters {
            counts.add(&letter.text("reason"));
        }
        if only_counts || letters.is_empty() {
            continue;
        }
        if json {
            // Each letter is gone when its line is there, for it may be large.
            let lines = letters.into_iter().map(|letter| letter.json().to_string());
            let lines: Vec<_> = lines.collect();
            print(&lines)?;
        } else {
            let rows: Vec<_> = letters.iter().map(row).collect();
            print(&table.page(&rows))?;
        }
    }
    match (only_counts, json) {
        (true, true) => {
            let counts = json!({ "total": counts.total, "by_reason": counts.json() });
            print(&[counts.to_string()])?;
        }
        (true, false) => {
            let mut table = Table::new(&[text("REASON"), number("COUNT")], None);
            let mut rows: Vec<_> = counts
                .sorted()
                .iter()
                .map(|(reason, n)| [(*reason).to_owned(), count(*n)])
                .collect();
            rows.push(["all".to_owned(), count(counts.total)]);
            print(&table.page(&rows))?;
        }
        (false, false) => print(&[counts.text()])?,
        // One letter a line, and nothing else.
        (false, true) => {}
    }
    Ok(ExitStatus::Done)
}

fn row(letter: &Letter) -> [String; 6] {
    [
        letter.id.clone(),
        letter.text("time"),
        letter.text("reason"),
        letter.text("attempts"),
        letter.did().unwrap_or_else(|| "–".to_owned()),
        letter.text("error"),
    ]
}

/// `show`: the letter of this id, or else the one whose message had it in the input.
pub(super) fn show(redis: &RedisOptions, id: EntryId, json: bool) -> Result<ExitStatus, Failure> {
    let config = server::config(redis)?;
    let mut link = server::connect(&config)?;
    let failed = |error| server::failed(&config, &error);
    let mut found = by_ids(&mut link, &config.dlq_stream, &[id.to_string()]).map_err(failed)?;
    let is_original = found.is_empty();
    if is_original {
        let selection = Selection {
            reason: Vec::new(),
            did: Vec::new(),
            id: Vec::new(),
            original_id: vec![id],
            limit: Some(1),
            newest: true,
        };
        let mut scan = Scan::begin(&mut link, &config, &selection).map_err(failed)?;
        while let Some(letters) = scan.next(&mut link).map_err(failed)? {
            found.extend(letters);
        }
    }
    let Some(letter) = found.first() else {
        return Err(Failure::Failed(format!(
            "no dead letter has the id {id}, and none is of a message that had it"
        )));
    };
    if json {
        print(&[letter.json().to_string()])?;
    } else {
        print(&lines(letter, is_original))?;
    }
    Ok(ExitStatus::Done)
}

/// All that the letter says, one field a line but for what is JSON, which is laid out.
fn lines(letter: &Letter, is_original: bool) -> Vec<String> {
    let mut lines = vec![format!("dead letter {}", letter.id)];
    if is_original {
        lines[0] += " (found by the id that its message had in the input)";
    }
    for (name, value) in &letter.fields {
        let title: Cow<'_, str> = match &name[..] {
            b"id" => "id in the input".into(),
            name => escaped_bytes(name).into(),
        };
        let laid_out = match &name[..] {
            b"repo" | b"entry" => serde_json::from_slice::<Value>(value).ok(),
            _ => None,
        };
        match laid_out.filter(|value| value.is_object() || value.is_array()) {
            Some(value) => {
                lines.push(format!("{title}:"));
                // Pretty JSON has a line of its own for each value, and no line break within one.
                let pretty = serde_json::to_string_pretty(&value).unwrap_or_default();
                lines.extend(pretty.lines().map(|line| format!("  {}", escaped(line))));
            }
            None => lines.push(format!("{title}: {}", escaped_bytes(value))),
        }
    }
    if letter.requeueable().is_none() {
        lines.push("It cannot be requeued: its message had no field `repo`.".to_owned());
    }
    lines
}
