//! One page of com.atproto.sync.listRepos, as a server that may be hostile sends it.
//!
//! A page that is no such object is refused as a whole; of an object each account is judged by itself, and one that is none is counted
//! and left out. What decides nothing (`rev`, `status`, `active`) is passed on where it is well-formed.

use std::collections::HashSet;

use rsky_syntax::tid::is_valid_tid;
use serde_json::{Map, Value};

use super::message::Hints;
use crate::queue::message::check_did;

/// Accounts that are asked for at a time: the most that the method allows.
pub(super) const LIMIT: u64 = 1000;
/// Largest page in bytes that is read: sixteen times what an honest one of [`LIMIT`] accounts takes.
pub(super) const MAX_PAGE: u64 = 4 << 20;
/// Most accounts that are taken from one page: servers may have a limit of their own, but this is one transaction.
const MAX_REPOS: usize = 10 * LIMIT as usize;
/// Longest cursor in bytes: it is kept, and sent back in a URL.
const MAX_CURSOR: usize = 2048;

/// What a page says.
#[derive(Debug)]
pub(super) struct Page {
    /// Where the next one begins; `None` on the last one.
    pub cursor: Option<String>,
    /// Its accounts, each once.
    pub repos: Vec<Listed>,
    /// What stands there instead of an account: the value, and what is wrong.
    pub bad: Vec<(String, String)>,
    /// Accounts that the page names more than once.
    pub duplicates: u64,
}

/// An account of a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub did: String,
    pub hints: Hints,
}

impl Page {
    /// Reads the body of an answer.
    ///
    /// # Errors
    /// Why it is no page, in words.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let fields: Map<String, Value> =
            serde_json::from_slice(body).map_err(|e| format!("no JSON object: {e}"))?;
        let cursor = match fields.get("cursor") {
            None | Some(Value::Null) => None,
            Some(Value::String(cursor)) if cursor.is_empty() => None,
            Some(Value::String(cursor)) if cursor.len() <= MAX_CURSOR => Some(cursor.clone()),
            Some(Value::String(_)) => {
                return Err(format!("a cursor of more than {MAX_CURSOR} bytes"));
            }
            Some(_) => return Err("a cursor that is no string".to_owned()),
        };
        let Some(Value::Array(listed)) = fields.get("repos") else {
            return Err("no list of repos".to_owned());
        };
        if listed.len() > MAX_REPOS {
            return Err(format!(
                "{} accounts, and {LIMIT} were asked for",
                listed.len()
            ));
        }
        let mut page = Page {
            cursor,
            repos: Vec::with_capacity(listed.len()),
            bad: Vec::new(),
            duplicates: 0,
        };
        let mut seen = HashSet::new();
        for value in listed {
            match read(value) {
                Ok(repo) if !seen.insert(repo.did.clone()) => page.duplicates += 1,
                Ok(repo) => page.repos.push(repo),
                Err(why) => page.bad.push((shortened(value), why)),
            }
        }
        Ok(page)
    }

    /// Whether it says nothing of any account.
    pub fn is_empty(&self) -> bool {
        self.repos.is_empty() && self.bad.is_empty()
    }
}

fn read(value: &Value) -> Result<Listed, String> {
    let fields = value.as_object().ok_or("no object")?;
    let did = fields.get("did").and_then(Value::as_str).ok_or("no did")?;
    check_did(did)?;
    let rev = fields.get("rev").and_then(Value::as_str);
    let rev = rev.filter(|rev| is_valid_tid(*rev)).map(str::to_owned);
    Ok(Listed {
        did: did.to_owned(),
        hints: Hints::read(fields, rev),
    })
}

/// As much of a value as is worth showing.
fn shortened(value: &Value) -> String {
    let did = value.get("did").and_then(Value::as_str);
    let text = did.map_or_else(|| value.to_string(), str::to_owned);
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Page, String> {
        Page::parse(text.as_bytes())
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let long = format!(
            r#"{{"repos":[],"cursor":"{}"}}"#,
            "c".repeat(MAX_CURSOR + 1)
        );
        let many = format!(r#"{{"repos":[{}1]}}"#, "1,".repeat(MAX_REPOS));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for text in [
            "",
            "<html>",
            "[]",
            "{}",
            r#"{"repos":{}}"#,
            r#"{"repos":null}"#,
            r#"{"repos":[],"cursor":7}"#,
            r#"{"repos":[]"#,
            &long,
            &many,
            &deep,
        ] {
            assert!(parse(text).is_err(), "{:.60}", text);
        }
    }

    #[test]
    fn each_account_is_judged_by_itself() {
        let page = parse(
            r#"{"cursor":"c","more":1,"repos":[
                {"did":"did:plc:abc","head":"bafy","rev":"3kl7ad7zmfk2r","active":true},
                {"did":"did:plc:abd","rev":"not one","active":"yes","status":["x"]},
                {"did":"did:plc:abc"},7,{"did":"nobody"},{"did":"did:key:z"},{"did":null},
                {"did":"did:web:a.example","active":false,"status":"takendown"}]}"#,
        )
        .unwrap();
        assert_eq!(page.cursor.as_deref(), Some("c"));
        let dids: Vec<_> = page.repos.iter().map(|repo| repo.did.as_str()).collect();
        assert_eq!(dids, ["did:plc:abc", "did:plc:abd", "did:web:a.example"]);
        assert_eq!(page.repos[0].hints.rev.as_deref(), Some("3kl7ad7zmfk2r"));
        assert_eq!(page.repos[1].hints, Hints::default());
        assert_eq!(page.repos[2].hints.active, Some(false));
        assert_eq!((page.bad.len(), page.duplicates), (4, 1));
    }

    #[test]
    fn a_page_without_a_cursor_is_the_last() {
        for text in [
            r#"{"repos":[]}"#,
            r#"{"repos":[],"cursor":null}"#,
            r#"{"repos":[],"cursor":""}"#,
        ] {
            let page = parse(text).unwrap();
            assert!(page.cursor.is_none() && page.is_empty(), "{text}");
        }
    }
}
