//! EXECs that are still on their way when their sender is dead, and reach Redis at some time later.

use std::time::{Duration, Instant};

use redis::Connection;

use super::super::generator::Random;
use super::super::proxy::{Outcome, Proxy, Rule};
use super::message::Message;

/// At most so long is an EXEC under way. Others take a message over after a second, so some come before that, and some behind.
const LONGEST_MS: u64 = 2_500;

/// Such an EXEC.
pub struct Late {
    proxy: Proxy,
    rule: Rule,
    id: String,
    /// The consumer that sent it.
    sender: String,
    /// When it arrives; `None`: as soon as another consumer has the message.
    at: Option<Instant>,
}

impl Late {
    pub fn new(proxy: Proxy, rule: Rule, id: &str, sender: &str, random: &mut Random) -> Self {
        let after = Duration::from_millis(random.below(LONGEST_MS));
        Self {
            proxy,
            rule,
            id: id.to_owned(),
            sender: sender.to_owned(),
            at: random.chance(50).then(|| Instant::now() + after),
        }
    }

    /// Whether it is to arrive now.
    pub fn is_due(&self, connection: &mut Connection) -> bool {
        match self.at {
            Some(at) => at <= Instant::now(),
            None => !Message::read(connection, &self.id).is_with(&self.sender),
        }
    }

    /// Lets it arrive. Returns whether Redis executed it.
    pub fn arrive(self) -> bool {
        let number = self.rule.records()[0].number;
        self.rule.release();
        self.proxy.wait("the late EXEC is answered", 1, |record| {
            let answered = !matches!(record.outcome, Outcome::NotSent | Outcome::Unanswered);
            record.number == number && answered
        });
        let outcome = &self.proxy.records()[number].outcome;
        match outcome {
            Outcome::Applied => true,
            Outcome::Nil => false,
            other => panic!("Redis answered a late EXEC with {other:?}"),
        }
    }
}
