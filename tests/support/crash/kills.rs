//! Looks whether an instance is caught in its trap, and kills it there.
//!
//! What is observed before a kill is observed again behind it: [`Run::count`] counts it for the moment only then.

use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use super::super::fixture_server::Fault;
use super::super::proxy::Record;
use super::Run;
use super::instance::{Instance, Trap};
use super::late::Late;
use super::message::Message;
use super::tally::Moment;

/// How many names there are: enough for most of those that are free to be free in Redis too.
const NAMES: u64 = 12;
/// Of so many percent of the answers only a part comes, before the whole one does.
const CUT_OFF: u64 = 8;
/// So many percent of the killed are started again under their own name.
const SAME_NAME: u64 = 25;

impl Run {
    /// The next answers for an account stop within the body; sometimes one is cut off there before.
    pub(super) fn stop_answers(&mut self, did: &str) {
        let bytes = self.repos.bytes_of(did);
        let hold = Fault::Hold {
            after: self.random.below(bytes) as usize,
        };
        let fault = match self.random.chance(CUT_OFF) {
            true => {
                let after = self.random.below(bytes) as usize;
                Fault::Then(vec![Fault::Truncate { after }, hold])
            }
            false => hold,
        };
        self.server.set_fault(did, fault);
    }

    /// Lets each answer go on that is held, unless it is to be the last of its process.
    pub(super) fn look_at_fetches(&mut self) {
        let flights = self.repos.flights();
        let flights = flights.map(|flight| (flight.did.clone(), flight.id.clone()));
        let held: Vec<_> = flights
            .filter(|(did, _)| self.server.held(did) > 0)
            .collect();
        if held.is_empty() {
            return;
        }
        let requests = self.server.requests();
        for (did, id) in held {
            let mut latest = requests.iter().rev();
            let latest =
                latest.find(|request| request.is_get_repo() && request.did.as_ref() == Some(&did));
            let agent = latest
                .and_then(|request| request.header("user-agent"))
                .unwrap_or_default();
            let by = self
                .instances
                .iter()
                .position(|it| agent.contains(&format!("{})", it.contact)));
            if let Some(place) = by {
                match &mut self.instances[place].trap {
                    Trap::Fetching { skip: 0 } => self.kill_fetching(place, &did, &id),
                    Trap::Fetching { skip } => *skip -= 1,
                    _ => {}
                }
            }
            self.server.release(&did);
            self.stop_answers(&did);
        }
    }

    pub(super) fn look_at_instance(&mut self, place: usize) {
        match &self.instances[place].trap {
            Trap::AnyTime { at } if *at <= Instant::now() => {
                self.kill(place);
                self.tally.killed(Moment::AnyTime);
            }
            Trap::WaitsForRoom => self.look_for_room(place),
            Trap::HearsNothing { rule } if rule.count() > 0 => {
                let id = rule.records()[0].id.clone().expect("a chunk of a message");
                self.kill_between_chunks(place, &id);
            }
            Trap::Exec { rule, moment } if rule.count() > 0 => {
                let held = rule.records().remove(0);
                self.kill_in_exec(place, *moment, &held);
            }
            _ => {}
        }
    }

    fn kill_fetching(&mut self, place: usize, did: &str, id: &str) {
        let before = Message::read(&mut self.connection, id);
        let so = before.is_with(&self.instances[place].name);
        self.kill(place);
        let after = Message::read(&mut self.connection, id);
        let so = so && before == after && self.server.held(did) > 0;
        self.count(so, Moment::Fetching, id);
    }

    fn look_for_room(&mut self, place: usize) {
        let instance = &self.instances[place];
        let mut flights = self.repos.flights();
        let found = flights.find(|it| instance.chunks_of(&it.id).is_some_and(|it| it > 0));
        if let Some(id) = found.map(|flight| flight.id.clone()) {
            self.kill_between_chunks(place, &id);
        }
    }

    fn kill_between_chunks(&mut self, place: usize, id: &str) {
        let instance = &self.instances[place];
        let before = Message::read(&mut self.connection, id);
        // Not only what Redis says: those leaves may be of another process, and the message wait here for its turn.
        let chunks = instance.chunks_of(id);
        let so = chunks > Some(0) && before.leaves() > 0 && before.is_with(&instance.name);
        let dead = self.kill(place);
        let after = Message::read(&mut self.connection, id);
        let so = so && before == after && dead.chunks_of(id) == chunks;
        self.count(so, Moment::BetweenChunks, id);
    }

    fn kill_in_exec(&mut self, place: usize, moment: Moment, held: &Record) {
        let id = held.id.as_deref().expect("an EXEC of a message");
        let before = Message::read(&mut self.connection, id);
        let dead = self.kill(place);
        let record = dead.proxy.records().swap_remove(held.number);
        let Instance {
            name, proxy, trap, ..
        } = dead;
        let Trap::Exec { rule, .. } = trap else {
            unreachable!("nobody sets a trap anew")
        };
        let so = match moment {
            Moment::ExecApplied => record.is_applied() && !record.handed_on,
            _ => rule.held() == 1 && before.is_with(&name),
        };
        if moment == Moment::ExecLate && so {
            let late = Late::new(proxy, rule, &before, &mut self.random);
            self.late.push(late);
        } else {
            // In this order: what was held is lost.
            drop(proxy);
            drop(rule);
        }
        let after = Message::read(&mut self.connection, id);
        self.count(so && before == after, moment, id);
    }

    /// Kills an instance and starts its successor; returns the dead one.
    fn kill(&mut self, place: usize) -> Instance {
        let same = self.random.chance(SAME_NAME);
        let name = match same {
            true => self.instances[place].name.clone(),
            false => self.free_name(),
        };
        let process = &mut self.instances[place].process;
        assert!(process.is_running(), "it ended by itself");
        let status = process.kill();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "it ended by itself");
        let successor = self.start(&name);
        let dead = std::mem::replace(&mut self.instances[place], successor);
        match same {
            true => self.tally.same_name += 1,
            false => self.tally.other_name += 1,
        }
        self.logs.keep(&dead);
        dead
    }

    /// A name that no running instance has.
    fn free_name(&mut self) -> String {
        loop {
            let name = format!("name-{}", self.random.below(NAMES));
            if self.instances.iter().all(|instance| instance.name != name) {
                return name;
            }
        }
    }

    /// Counts a kill in the midst of a message.
    fn count(&mut self, observed: bool, moment: Moment, id: &str) {
        self.tally.killed(match observed {
            true => moment,
            false => Moment::Missed,
        });
        if let Some(flight) = self.repos.flight_mut(id) {
            flight.struck = true;
        }
    }
}
