//! EXECs that are still on their way when their sender is dead, and reach Redis at some time later.

use std::time::{Duration, Instant};

use redis::Connection;

use super::super::generator::Random;
use super::super::proxy::{Outcome, Proxy, Record, Rule};
use super::message::Message;

/// At most so long is an EXEC under way. Others take a message over after a second, so some come before that, and some behind.
const LONGEST_MS: u64 = 2_500;

/// Such an EXEC.
pub struct Late {
    proxy: Proxy,
    rule: Rule,
    id: String,
    /// The token of its sender.
    owner: Option<String>,
    /// Whether its sender had written other chunks of the repo before.
    pub goes_on: bool,
    /// When it arrives; `None`: as soon as another one has acquired the message, so that it must be refused.
    at: Option<Instant>,
}

impl Late {
    /// The EXEC that a rule holds; the message is as it was when its sender died.
    pub fn new(proxy: Proxy, rule: Rule, message: &Message, random: &mut Random) -> Self {
        let held = rule.records().swap_remove(0);
        let before = |it: &Record| it.id == held.id && it.number < held.number && it.is_applied();
        let after = Duration::from_millis(random.below(LONGEST_MS));
        Self {
            goes_on: proxy.count(before) > 0,
            owner: message.owner.clone(),
            at: random.chance(50).then(|| Instant::now() + after),
            id: held.id.expect("an EXEC of a message"),
            proxy,
            rule,
        }
    }

    /// Whether it is to arrive now.
    pub fn is_due(&self, connection: &mut Connection) -> bool {
        match self.at {
            Some(at) => at <= Instant::now(),
            None => self.is_foreign(connection),
        }
    }

    /// Whether another one has acquired the message since, or even ended it.
    fn is_foreign(&self, connection: &mut Connection) -> bool {
        Message::read(connection, &self.id).owner != self.owner
    }

    /// Lets it arrive. Returns whether Redis executed it.
    pub fn arrive(self, connection: &mut Connection) -> bool {
        let foreign = self.is_foreign(connection);
        let number = self.rule.records()[0].number;
        self.rule.release();
        self.proxy.wait("the late EXEC is answered", 1, |record| {
            let answered = !matches!(record.outcome, Outcome::NotSent | Outcome::Unanswered);
            record.number == number && answered
        });
        match &self.proxy.records()[number].outcome {
            Outcome::Applied => {
                assert!(
                    !foreign,
                    "the EXEC of a former owner of {} was executed",
                    self.id
                );
                true
            }
            Outcome::Nil => false,
            other => panic!("Redis answered a late EXEC with {other:?}"),
        }
    }
}
