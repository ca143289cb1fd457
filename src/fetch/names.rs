//! What names resolved to a short while ago, and who waits for what is being looked up; shared by all agents of the process.
//!
//! ureq resolves a name before it looks for a kept connection, and so for each request. Of 45 million repos most are on a few
//! hosts, so answers are kept: bounded in number and time, and as they came, for who may use which address is decided at each
//! use (see [`Resolver`](super::resolver::Resolver)). Failures are not kept: they end with the moment that made them. Who asks
//! for a name that is being looked up waits for the same answer. Pinned by the tests here and in `resolver.rs`.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use lru::LruCache;

/// How long an answer is used. The system does not say how long it holds; most hosts' own records say one to five minutes, and
/// one that moves is found again before a failed message is due for the second time.
pub const KEPT_FOR: Duration = Duration::from_secs(60);
/// How many answers are kept, some 200 bytes each: more than the network has servers of repos. (Unwrapped when this is
/// compiled, and never again.)
const KEPT: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// What a name resolved to; the error is shared by all who waited.
pub type Answer = Result<Arc<[IpAddr]>, Arc<io::Error>>;

/// The answers and those who wait for some.
pub struct Names {
    kept_for: Duration,
    inner: Mutex<Inner>,
}

struct Inner {
    kept: LruCache<String, (Instant, Arc<[IpAddr]>)>,
    asked: HashMap<String, Vec<Waiter>>,
}

struct Waiter {
    /// Until when it waits; `None`: for ever.
    deadline: Option<Instant>,
    answer: Sender<Answer>,
}

/// What becomes of a question.
pub enum Asked {
    /// It was answered a short while ago.
    Known(Arc<[IpAddr]>),
    /// Somebody has asked already, and the answer comes here as well.
    Waiting(Receiver<Answer>),
    /// Nobody has asked: whoever asked now must have it looked up. The answer comes here.
    First(Receiver<Answer>),
}

impl Names {
    /// Nothing is known; answers will be used for so long.
    pub fn new(kept_for: Duration) -> Self {
        Names {
            kept_for,
            inner: Mutex::new(Inner {
                kept: LruCache::new(KEPT),
                asked: HashMap::new(),
            }),
        }
    }

    /// Asks for a name, and waits for the answer until the deadline if it is not known.
    pub fn ask(&self, name: &str, deadline: Option<Instant>) -> Asked {
        let mut inner = self.lock();
        if let Some((since, addresses)) = inner.kept.get(name)
            && since.elapsed() < self.kept_for
        {
            return Asked::Known(Arc::clone(addresses));
        }
        let (answer, answered) = bounded(1);
        let waiter = Waiter { deadline, answer };
        match inner.asked.get_mut(name) {
            Some(waiters) => {
                waiters.push(waiter);
                Asked::Waiting(answered)
            }
            None => {
                inner.asked.insert(name.to_owned(), vec![waiter]);
                Asked::First(answered)
            }
        }
    }

    /// Whether anybody still waits for this name. If not, it is as if nobody had asked.
    pub fn is_wanted(&self, name: &str) -> bool {
        let now = Instant::now();
        let mut inner = self.lock();
        let waits = |waiter: &Waiter| waiter.deadline.is_none_or(|deadline| now < deadline);
        let wanted = inner
            .asked
            .get(name)
            .is_some_and(|waiters| waiters.iter().any(waits));
        if !wanted {
            inner.asked.remove(name);
        }
        wanted
    }

    /// Hands the answer to all who wait for it, and keeps it if it is one.
    pub fn answer(&self, name: &str, answer: io::Result<Vec<IpAddr>>) {
        let answer: Answer = answer.map(Arc::from).map_err(Arc::new);
        let mut inner = self.lock();
        if let Ok(addresses) = &answer {
            let kept = (Instant::now(), Arc::clone(addresses));
            inner.kept.put(name.to_owned(), kept);
        }
        let waiters = inner.asked.remove(name).unwrap_or_default();
        drop(inner);
        for waiter in waiters {
            // There is room for one answer, but whoever asked may have run out of time.
            let _ = waiter.answer.send(answer.clone());
        }
    }

    /// The last answer for this name, however old, if it is still kept.
    pub fn last(&self, name: &str) -> Option<Arc<[IpAddr]>> {
        let inner = self.lock();
        inner.kept.peek(name).map(|(_, last)| Arc::clone(last))
    }

    /// How many wait for this name.
    #[cfg(test)]
    pub fn waiting(&self, name: &str) -> usize {
        self.lock().asked.get(name).map_or(0, Vec::len)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<IpAddr> {
        vec![text.parse().unwrap()]
    }

    fn known(names: &Names, name: &str) -> Option<Vec<IpAddr>> {
        match names.ask(name, None) {
            Asked::Known(addresses) => Some(addresses.to_vec()),
            _ => None,
        }
    }

    #[test]
    fn an_answer_is_kept_for_its_time_and_known_as_the_last_one_after_that() {
        for (kept_for, used) in [(KEPT_FOR, true), (Duration::ZERO, false)] {
            let names = Names::new(kept_for);
            assert!(matches!(names.ask("a.example", None), Asked::First(_)));
            assert_eq!(names.last("a.example"), None);
            names.answer("a.example", Ok(addresses("192.0.2.1")));
            assert_eq!(known(&names, "a.example").is_some(), used);
            let last = names.last("a.example").unwrap();
            assert_eq!(last.to_vec(), addresses("192.0.2.1"));
        }
    }

    #[test]
    fn all_who_ask_meanwhile_get_the_one_answer_or_the_one_error() {
        let names = Names::new(KEPT_FOR);
        for answer in [Err(io::Error::other("no")), Ok(addresses("192.0.2.1"))] {
            let failed = answer.is_err();
            let Asked::First(first) = names.ask("a.example", None) else {
                panic!("a failure is not kept");
            };
            let Asked::Waiting(second) = names.ask("a.example", None) else {
                panic!("it is asked already");
            };
            assert!(matches!(names.ask("b.example", None), Asked::First(_)));
            names.answer("a.example", answer);
            names.answer("b.example", Err(io::Error::other("no")));
            for answered in [first, second] {
                assert_eq!(answered.try_recv().unwrap().is_err(), failed);
            }
        }
        assert!(known(&names, "a.example").is_some());
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_looked_up() {
        let names = Names::new(KEPT_FOR);
        let past = Instant::now();
        let (Asked::First(_), Asked::Waiting(_)) = (
            names.ask("a.example", Some(past)),
            names.ask("a.example", Some(past)),
        ) else {
            panic!("one question, two who wait");
        };
        assert!(!names.is_wanted("a.example"));
        let Asked::First(answered) = names.ask("a.example", Some(past)) else {
            panic!("it is as if nobody had asked");
        };
        assert!(matches!(names.ask("a.example", None), Asked::Waiting(_)));
        assert!(names.is_wanted("a.example"), "one of them waits for ever");
        names.answer("a.example", Ok(addresses("192.0.2.1")));
        assert!(answered.try_recv().unwrap().is_ok());
    }

    #[test]
    fn the_number_of_answers_is_bounded() {
        let names = Names::new(KEPT_FOR);
        let many = KEPT.get() + 10;
        for n in 0..many {
            names.answer(&format!("{n}.example"), Ok(addresses("192.0.2.1")));
        }
        assert_eq!(names.lock().kept.len(), KEPT.get());
        assert!(names.last("9.example").is_none(), "the oldest are gone");
        assert!(names.last(&format!("{}.example", many - 1)).is_some());
        assert!(names.lock().asked.is_empty());
    }
}
