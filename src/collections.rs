//! Which collections' records become events.
//!
//! A list of NSIDs; one that ends with `.*` stands for all whose first segments are the same, and that have at least one more. What is
//! compared is what stands in the keys of a repo, so upper and lower case differ. A pattern that no NSID can match is
//! refused: it would be a mistake that nobody notices. Pinned by the tests here and by `tests/collections.rs`.

use std::fmt;
use std::str::FromStr;

use rsky_syntax::nsid::ensure_valid_nsid;

/// What ends a pattern that stands for many.
const WILDCARD: &str = "*";
/// The word for no filter.
const ALL: &str = "all";

/// The collections that are wanted; by default, all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collections(Option<Patterns>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Patterns {
    /// Whole NSIDs, sorted.
    exact: Vec<String>,
    /// First segments with the dot behind them, sorted.
    prefixes: Vec<String>,
}

/// An item of a list that is neither an NSID nor a prefix of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is neither an NSID nor a prefix of one with .* behind it", .0.escape_debug())]
pub struct BadCollection(pub String);

impl Collections {
    /// Whether there is no filter.
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether records of this collection become events.
    pub fn wants(&self, collection: &str) -> bool {
        let Some(Patterns { exact, prefixes }) = &self.0 else {
            return true;
        };
        exact
            .binary_search_by(|known| known.as_str().cmp(collection))
            .is_ok()
            || prefixes.iter().any(|prefix| collection.starts_with(prefix))
    }
}

impl FromStr for Collections {
    type Err = BadCollection;

    /// From a list with commas between its items, and blanks round them where there are any; `all` alone is no filter.
    fn from_str(list: &str) -> Result<Self, BadCollection> {
        if list.trim() == ALL {
            return Ok(Collections::default());
        }
        let mut patterns = Patterns::default();
        for item in list.split(',').map(str::trim) {
            match item.strip_suffix(WILDCARD) {
                Some(prefix) if is_prefix(prefix) => patterns.prefixes.push(prefix.to_owned()),
                None if ensure_valid_nsid(item).is_ok() => patterns.exact.push(item.to_owned()),
                _ => return Err(BadCollection(item.to_owned())),
            }
        }
        for kind in [&mut patterns.exact, &mut patterns.prefixes] {
            kind.sort();
            kind.dedup();
        }
        Ok(Collections(Some(patterns)))
    }
}

/// Whether an NSID can begin like this, up to a dot: whether one does with the shortest end that makes it long enough.
fn is_prefix(prefix: &str) -> bool {
    prefix.ends_with('.')
        && ["a", "a.a"].iter().any(|end| {
            let shortest = format!("{prefix}{end}");
            ensure_valid_nsid(shortest).is_ok()
        })
}

impl fmt::Display for Collections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Patterns { exact, prefixes }) = &self.0 else {
            return f.write_str(ALL);
        };
        let exact = exact.iter().map(|nsid| (nsid, ""));
        let items = exact.chain(prefixes.iter().map(|prefix| (prefix, WILDCARD)));
        for (i, (item, end)) in items.enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{item}{end}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Collections {
        list.parse()
            .unwrap_or_else(|error| panic!("{list:?}: {error}"))
    }

    #[test]
    fn all_is_no_filter() {
        for all in [Collections::default(), parse("all"), parse(" all\n")] {
            assert!(all.is_all() && all.wants("app.bsky.feed.post"));
            assert_eq!(all.to_string(), "all");
        }
    }

    #[test]
    fn an_nsid_stands_for_itself() {
        let some = parse("app.bsky.feed.post,app.bsky.feed.like");
        assert!(!some.is_all());
        for wanted in ["app.bsky.feed.post", "app.bsky.feed.like"] {
            assert!(some.wants(wanted), "{wanted}");
        }
        for other in [
            "app.bsky.feed.posts",
            "app.bsky.feed.pos",
            "app.bsky.feed",
            "app.bsky.feed.post.gate",
            "app.bsky.feed.Post",
            "App.bsky.feed.post",
            "",
        ] {
            assert!(!some.wants(other), "{other}");
        }
    }

    #[test]
    fn a_prefix_stands_for_what_has_the_same_first_segments() {
        let some = parse("app.bsky.feed.*");
        for wanted in [
            "app.bsky.feed.post",
            "app.bsky.feed.like",
            "app.bsky.feed.a.b",
        ] {
            assert!(some.wants(wanted), "{wanted}");
        }
        // The first two have the same first letters, and the third has no segment more.
        for other in [
            "app.bsky.feeds.post",
            "app.bsky.feed-x.post",
            "app.bsky.feed",
            "com.app.bsky.feed.post",
            "app.bsky.graph.follow",
        ] {
            assert!(!some.wants(other), "{other}");
        }
        assert!(parse("app.*").wants("app.bsky.feed.post"));
        assert!(!parse("app.*").wants("apple.bsky.feed.post"));
    }

    #[test]
    fn blanks_order_and_repetition_mean_nothing() {
        let some = parse(" x.y.* , b.c.d\t,a.b.c ,x.y.*,a.b.c");
        assert_eq!(some, parse("a.b.c,b.c.d,x.y.*"));
        assert_eq!(some.to_string(), "a.b.c,b.c.d,x.y.*");
        assert_eq!(parse(&some.to_string()), some);
        for (collection, wanted) in [("a.b.c", true), ("x.y.z", true), ("a.b.d", false)] {
            assert_eq!(some.wants(collection), wanted, "{collection}");
        }
    }

    #[test]
    fn what_no_nsid_can_match_is_refused() {
        let long = format!("{}.a.b", "x".repeat(64));
        let deep = format!("{}*", "abcdefghi.".repeat(32));
        for item in [
            "",
            "*",
            ".*",
            "app.bsky",
            "app",
            "app.bsky.feed.",
            "app.bsky.feed*",
            "app.bsky.fe*d.post",
            "app.*.post",
            "app.bsky.feed.**",
            "app.bsky.feed.*.*",
            "app..feed.*",
            "-app.bsky.*",
            "1app.bsky.*",
            "app.bsky.feed.po-st",
            "app.bsky.feed.1post",
            "app.bsky.feed.post/3k",
            "app.bsky feed.post",
            "äpp.bsky.feed.post",
            "All",
            &long,
            &deep,
        ] {
            let refused = Err(BadCollection(item.to_owned()));
            assert_eq!(item.parse::<Collections>(), refused);
            let listed = format!("app.bsky.feed.post,{item}");
            assert_eq!(listed.parse::<Collections>(), refused);
        }
        let listed = "app.bsky.feed.post,all".parse::<Collections>();
        assert_eq!(
            listed.map_err(|e| e.to_string()),
            Err("\"all\" is neither an NSID nor a prefix of one with .* behind it".to_owned())
        );
    }
}
