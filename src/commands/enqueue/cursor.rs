//! Where the list of a host goes on: a key beside the input stream.
//!
//! `<input>:list-repos:<host>` is a hash with the cursor behind the last page that was enqueued, how many accounts were, and whether the
//! list came to its end. It is written in the transaction that adds the page, behind a WATCH and a look at whether it is still where the
//! page was asked from. So whatever ends a call, and whoever else lists the same host, each page is enqueued once. It stays when
//! the list is at its end, or the next call, by who does not know that it was, would enqueue all of it again.

use redis::{FromRedisValue, RedisError, RedisResult, Value};

use crate::connection::Link;
use crate::fetch::host::Host;
use crate::resp::Pipeline;

/// A place in a list of repos.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// What the host is to be given; `None` at the start.
    pub cursor: Option<String>,
    /// Accounts that were enqueued until here.
    pub enqueued: u64,
    /// Whether it is the end.
    pub done: bool,
    /// Whether accounts that are not active were left out until here.
    pub active_only: bool,
}

/// The key that keeps the place.
pub(super) struct Kept {
    /// Its name.
    pub key: String,
}

impl Kept {
    /// The key of this host's list, beside this input.
    pub fn new(input: &str, host: &Host) -> Self {
        Kept {
            key: format!("{input}:list-repos:{host}"),
        }
    }

    /// The place.
    pub fn read(&self, link: &mut Link) -> RedisResult<Place> {
        let mut commands = Pipeline::default();
        self.ask(&mut commands);
        let replies = link.pipeline(&commands)?;
        place(replies)
    }

    /// The place, from which nobody can go on unseen from now on.
    pub fn watch(&self, link: &mut Link) -> RedisResult<Place> {
        let mut commands = Pipeline::default();
        commands.add(&[b"WATCH", self.key.as_bytes()]);
        self.ask(&mut commands);
        let replies = link.pipeline(&commands)?;
        place(replies)
    }

    /// The list begins anew.
    pub fn forget(&self, link: &mut Link) -> RedisResult<()> {
        let deleted: RedisResult<u64> = link.query(redis::cmd("DEL").arg(&self.key));
        deleted.map(|_| ())
    }

    /// Adds the command that keeps this place.
    pub fn write(&self, commands: &mut Pipeline, place: &Place) {
        let enqueued = place.enqueued.to_string();
        let flag = |set: bool| -> &[u8] { if set { b"1" } else { b"0" } };
        let (done, active_only) = (flag(place.done), flag(place.active_only));
        commands.add(&[
            b"HSET",
            self.key.as_bytes(),
            b"cursor",
            place.cursor.as_deref().unwrap_or_default().as_bytes(),
            b"enqueued",
            enqueued.as_bytes(),
            b"done",
            done,
            b"active_only",
            active_only,
        ]);
    }

    fn ask(&self, commands: &mut Pipeline) {
        let key = self.key.as_bytes();
        commands.add(&[
            b"HMGET",
            key,
            b"cursor",
            b"enqueued",
            b"done",
            b"active_only",
        ]);
    }
}

/// The place in the last of these replies.
fn place(replies: Vec<Value>) -> RedisResult<Place> {
    let mut last = Value::Nil;
    for reply in replies {
        last = reply.extract_error()?;
    }
    type Fields = (Option<String>, Option<u64>, Option<u64>, Option<u64>);
    let (cursor, enqueued, done, active_only) =
        Fields::from_redis_value(last).map_err(RedisError::from)?;
    Ok(Place {
        cursor: cursor.filter(|cursor| !cursor.is_empty()),
        enqueued: enqueued.unwrap_or_default(),
        done: done == Some(1),
        active_only: active_only == Some(1),
    })
}
