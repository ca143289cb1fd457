//! The wire format of the output stream, and the commands that append it.
//!
//! Each entry has one field `event`, whose value is compact JSON with its keys in this order:
//! ```json
//! {"type":"create","seq":-1,"time":T,"did":D,"commit":C,"rev":R,"collection":N,"rkey":K,"cid":L,"record":{…}}
//! {"type":"repo","seq":-1,"time":T,"did":D,"commit":C,"rev":R}
//! ```
//! `seq` is −1, which no live event has. `time` is when the repo was processed, one value for all its events. What is the same in
//! all events of a repo is made once, in [`Events`]. No value needs JSON escaping but the record, which brings its own: DIDs,
//! TIDs, CIDs, NSIDs and record keys have no character that does. Pinned by `tests/events.rs` and the golden texts below.

use std::time::SystemTime;

use cid::Cid;
use jiff::Timestamp;

use crate::repo::link::Link;

/// `seq` of every event: not from the live firehose.
pub const SEQ_BACKFILL: i64 = -1;

/// The constant parts of the events of one repo.
pub struct Events {
    create: Vec<u8>,
    repo: Vec<u8>,
}

impl Events {
    /// For the repo of `did` at `commit`; `did` and `rev` have been checked for their syntax.
    ///
    /// `time` is a [`timestamp`], that of now or, where a repo is resumed, that of its first events.
    pub fn new(did: &str, commit: &Cid, rev: &str, time: &str) -> Self {
        let rest = format!(
            r#""seq":{SEQ_BACKFILL},"time":"{time}","did":"{did}","commit":"{commit}","rev":"{rev}""#
        );
        Events {
            create: format!(r#"{{"type":"create",{rest},"collection":""#).into_bytes(),
            repo: format!(r#"{{"type":"repo",{rest}}}"#).into_bytes(),
        }
    }

    /// The event that ends each chunk.
    pub fn repo(&self) -> &[u8] {
        &self.repo
    }

    /// Appends a `create` event up to its record, which the caller appends, and then [`Events::end_create`].
    ///
    /// Returns whether `cid` is a valid CID; if not, the event is not complete.
    pub fn begin_create(
        &self,
        collection: &str,
        rkey: &str,
        cid: Link<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        out.extend_from_slice(&self.create);
        out.extend_from_slice(collection.as_bytes());
        out.extend_from_slice(br#"","rkey":""#);
        out.extend_from_slice(rkey.as_bytes());
        out.extend_from_slice(br#"","cid":""#);
        let valid = cid.write_text(out);
        out.extend_from_slice(br#"","record":"#);
        valid
    }

    /// Ends a `create` event after its record.
    pub fn end_create(out: &mut Vec<u8>) {
        out.push(b'}');
    }
}

/// `YYYY-MM-DDTHH:MM:SS.mmmZ`.
pub fn timestamp(time: SystemTime) -> String {
    // Only a clock outside of the years −9999 to 9999 is refused.
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// Whether a text can be a [`timestamp`]: it goes into the events as it is.
pub fn is_timestamp(text: &str) -> bool {
    text.parse::<Timestamp>().is_ok() && text.bytes().all(|b| !matches!(b, b'"' | b'\\' | b' '))
}

/// Milliseconds since 1970; 0 for a clock before it.
pub fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn events_have_the_exact_bytes_of_the_contract() {
        let commit: Cid = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"
            .parse()
            .unwrap();
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_007);
        let time = timestamp(time);
        assert!(is_timestamp(&time) && !is_timestamp("soon\""));
        let events = Events::new("did:plc:abc", &commit, "3kl7ad7zmfk2r", &time);
        assert_eq!(
            std::str::from_utf8(events.repo()).unwrap(),
            r#"{"type":"repo","seq":-1,"time":"2023-11-14T22:13:20.007Z","did":"did:plc:abc","commit":"bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a","rev":"3kl7ad7zmfk2r"}"#
        );
        let mut out = Vec::new();
        assert!(events.begin_create(
            "app.bsky.feed.like",
            "3kabc",
            Link(&commit.to_bytes()),
            &mut out
        ));
        out.extend_from_slice(b"{}");
        Events::end_create(&mut out);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            r#"{"type":"create","seq":-1,"time":"2023-11-14T22:13:20.007Z","did":"did:plc:abc","commit":"bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a","rev":"3kl7ad7zmfk2r","collection":"app.bsky.feed.like","rkey":"3kabc","cid":"bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a","record":{}}"#
        );
        assert!(!events.begin_create("a.b.c", "d", Link(b"no CID"), &mut out));
    }
}
