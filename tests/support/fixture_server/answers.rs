//! Answers that are made to order: lists of repos, and whatever else a test says for a path.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::state::{Document, State};

/// The method that lists accounts.
pub const LIST_REPOS: &str = "/xrpc/com.atproto.sync.listRepos";

/// What listRepos lists, so many accounts a page.
#[derive(Default)]
pub struct List {
    pub repos: Vec<Value>,
    pub page: usize,
}

impl State {
    /// The answer to a request for this (decoded) path and query, if it is made to order. The last of several stays.
    pub fn made_to_order(&mut self, target: &str) -> Option<Document> {
        if let Some(answers) = self.answers.get_mut(target) {
            let last = answers.len() == 1;
            return if last {
                answers.front().cloned()
            } else {
                answers.pop_front()
            };
        }
        let list = self.list.as_ref()?;
        let query = target.strip_prefix(LIST_REPOS)?.trim_start_matches('?');
        let query = query.replace('+', " ");
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let from = value("cursor").map_or(0, |cursor| {
            let number = cursor.strip_prefix("behind ");
            number
                .and_then(|n| n.parse().ok())
                .expect("a cursor of this list")
        });
        let limit = value("limit").and_then(|n| n.parse().ok()).unwrap_or(500);
        let to = (from + list.page.min(limit)).min(list.repos.len());
        let mut body = json!({ "repos": list.repos[from..to] });
        if to < list.repos.len() {
            body["cursor"] = format!("behind {to}").into();
        }
        Some(Document::ok(body.to_string()))
    }
}

impl Document {
    /// An answer of status 200.
    pub fn ok(body: impl Into<String>) -> Self {
        Self::status(200, body)
    }

    /// An answer of this status; a redirect's body is its target.
    pub fn status(status: u16, body: impl Into<String>) -> Self {
        Document {
            status,
            retry_after: None,
            body: body.into(),
        }
    }

    /// 429, for so many seconds.
    pub fn refusal(seconds: u64) -> Self {
        Document {
            status: 429,
            retry_after: Some(seconds),
            body: "<html>".to_owned(),
        }
    }
}

impl super::FixtureServer {
    /// Lists these from now on, so many a page: an object each, as listRepos has them.
    pub fn list_repos(&self, repos: Vec<Value>, page: usize) {
        self.shared.lock().list = Some(List { repos, page });
    }

    /// What a path and query, decoded, is answered with: each answer once, and the last one from then on. It goes before all else
    /// but getRepo.
    pub fn answer(&self, target: impl Into<String>, answers: impl IntoIterator<Item = Document>) {
        let answers: VecDeque<_> = answers.into_iter().collect();
        assert!(!answers.is_empty(), "an answer");
        self.shared.lock().answers.insert(target.into(), answers);
    }

    /// No more of these answers.
    pub fn forget_answer(&self, target: &str) {
        self.shared.lock().answers.remove(target);
    }

    /// Resolves this handle to this DID.
    pub fn resolve_handle(&self, handle: &str, did: &str) {
        let target = format!("/xrpc/com.atproto.identity.resolveHandle?handle={handle}");
        self.answer(target, [Document::ok(json!({ "did": did }).to_string())]);
    }
}
