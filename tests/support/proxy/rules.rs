//! What is done with the EXECs that a test has asked for.

use std::collections::HashSet;
use std::sync::Arc;

use super::exec::{Exec, Record};
use super::state::Shared;

/// What a rule does with an EXEC. It counts as caught ([`Rule::count`]) when it is in the state that is described here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The connection is cut, and the server does not get the EXEC: not applied.
    CutBefore,
    /// The server gets the EXEC and answers; instead of handing the reply on, the connection is cut: applied, unless the record
    /// says otherwise.
    CutAfter,
    /// The EXEC is on its way until it is released. Then the server gets it on the connection on which its MULTI and WATCH were,
    /// whatever has become of the client meanwhile.
    Delay,
    /// The server gets the EXEC and answers; the reply, and all replies behind it, are on their way until they are released. They
    /// are lost when the connection is cut or the client goes.
    HoldReply,
    /// The server gets the EXEC and answers; what the client has sent behind it is on its way until it is released.
    PauseAfter,
}

/// Whether a rule wants an EXEC.
pub type Wanted = Box<dyn FnMut(&Exec) -> bool + Send>;

/// A rule as the proxy keeps it.
pub struct RuleState {
    pub action: Action,
    pub wanted: Wanted,
    /// How many EXECs it still takes; `None`: all.
    pub left: Option<usize>,
    /// Those that it has taken, by their numbers.
    pub caught: Vec<usize>,
    /// Those among them that it holds.
    pub held: HashSet<usize>,
}

impl RuleState {
    /// Takes the EXEC if it is wanted.
    pub fn take(&mut self, exec: &Exec) -> bool {
        let taken = self.left != Some(0) && (self.wanted)(exec);
        if let (true, Some(left)) = (taken, &mut self.left) {
            *left -= 1;
        }
        taken
    }
}

/// The handle of a rule, which ends with it.
pub struct Rule {
    shared: Arc<Shared>,
    number: usize,
}

impl Rule {
    pub(super) fn add(
        shared: &Arc<Shared>,
        action: Action,
        left: Option<usize>,
        wanted: Wanted,
    ) -> Self {
        let rule = RuleState {
            action,
            wanted,
            left,
            caught: Vec::new(),
            held: HashSet::new(),
        };
        Self {
            number: shared.lock().add_rule(rule),
            shared: Arc::clone(shared),
        }
    }

    /// How many EXECs it has caught so far, those included that have been released.
    pub fn count(&self) -> usize {
        self.shared.lock().rule(self.number).caught.len()
    }

    /// How many EXECs it is holding. One whose client is gone counts, unless it is its reply that is held.
    pub fn held(&self) -> usize {
        self.shared.lock().rule(self.number).held.len()
    }

    /// The EXECs that it has caught so far.
    pub fn records(&self) -> Vec<Record> {
        let state = self.shared.lock();
        let caught = state.rule(self.number).caught.iter();
        caught.map(|exec| state.records[*exec].clone()).collect()
    }

    /// Waits until it has caught that many.
    #[track_caller]
    pub fn wait(&self, count: usize) {
        let what = format!("{count} EXECs are caught");
        self.shared
            .wait_until(&what, |state| state.rule(self.number).caught.len() >= count);
    }

    /// Lets go on what it holds now. It goes on to catch others.
    pub fn release(&self) {
        self.shared.lock().rule_mut(self.number).held.clear();
        self.shared.changed.notify_all();
    }

    /// Takes no more EXECs, and goes on to hold those that it has.
    pub fn stop(&self) {
        self.shared.lock().rule_mut(self.number).left = Some(0);
    }

    /// Cuts the connections on which are the EXECs that it holds, towards the client.
    pub fn cut_held(&self) {
        let connections = self.connections();
        self.shared.change(|state| {
            connections.into_iter().for_each(|it| _ = state.cut(it));
        });
    }

    /// The connections on which are the EXECs that it holds.
    pub(super) fn connections(&self) -> Vec<usize> {
        let state = self.shared.lock();
        let held = state.rule(self.number).held.iter();
        held.map(|exec| state.records[*exec].connection).collect()
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        self.shared.lock().rules.remove(&self.number);
        self.shared.changed.notify_all();
    }
}
