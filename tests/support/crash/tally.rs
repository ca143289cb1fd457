//! What a run has done so far: kills by the moment at which they struck, and what came of them.

use std::collections::BTreeMap;
use std::fmt;

/// How many kills a whole run needs.
pub const KILLS: usize = 200;

/// What a process was doing when it was killed. All but the last two are observed: right before the kill, and again behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// The answer of a getRepo of this process was under way.
    Fetching,
    /// It had written a chunk of a repo, more were to come, and none of its EXECs was unanswered.
    BetweenChunks,
    /// Redis had executed the EXEC, and the reply had not arrived.
    ExecApplied,
    /// The EXEC had been sent, and was lost on the way to Redis.
    ExecLost,
    /// The EXEC had been sent, and reached Redis only after its sender was dead.
    ExecLate,
    /// Nobody looked: after a random time.
    AnyTime,
    /// One of the others, but it had passed when the signal arrived.
    Missed,
}

impl Moment {
    pub const ALL: [Self; 7] = [
        Self::Fetching,
        Self::BetweenChunks,
        Self::ExecApplied,
        Self::ExecLost,
        Self::ExecLate,
        Self::AnyTime,
        Self::Missed,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::BetweenChunks => "between chunks",
            Self::ExecApplied => "EXEC applied",
            Self::ExecLost => "EXEC lost",
            Self::ExecLate => "EXEC late",
            Self::AnyTime => "any time",
            Self::Missed => "missed",
        }
    }

    /// How many kills a whole run needs at this moment.
    fn goal(self) -> usize {
        match self {
            Self::Fetching | Self::BetweenChunks => 20,
            Self::ExecApplied | Self::ExecLost | Self::ExecLate => 10,
            Self::AnyTime | Self::Missed => 0,
        }
    }
}

/// The counts of a run.
#[derive(Clone, Default)]
pub struct Tally {
    kills: BTreeMap<Moment, usize>,
    /// Starts after a kill under the name of the killed one, and under another.
    pub same_name: usize,
    pub other_name: usize,
    /// EXECs of the dead that Redis executed when they came.
    pub late_applied: usize,
    /// Those that it refused, for the message was another's: the first of their sender for the message, and later ones.
    pub late_refused_first: usize,
    pub late_refused_later: usize,
    /// Messages that went from one consumer to another.
    pub takeovers: usize,
    /// Messages that were killed at least once while they were worked on, and are finished all the same.
    pub survivors: usize,
    pub repos: usize,
    pub events: usize,
}

impl Tally {
    pub fn killed(&mut self, moment: Moment) {
        *self.kills.entry(moment).or_default() += 1;
    }

    pub fn kills(&self) -> usize {
        self.kills.values().sum()
    }

    /// What is still to be done before a run may end.
    pub fn missing(&self) -> Vec<String> {
        let mut wanted = vec![
            ("kills", self.kills(), KILLS),
            ("restarts under the same name", self.same_name, 20),
            ("restarts under another name", self.other_name, 20),
            ("takeovers", self.takeovers, 20),
            ("late EXECs executed", self.late_applied, 3),
            ("late first EXECs refused", self.late_refused_first, 3),
            ("late further EXECs refused", self.late_refused_later, 3),
        ];
        for moment in Moment::ALL {
            let count = self.kills.get(&moment).copied().unwrap_or(0);
            wanted.push((moment.name(), count, moment.goal()));
        }
        let missing = wanted.into_iter().filter(|(_, is, goal)| is < goal);
        missing
            .map(|(what, is, goal)| format!("{what}: {is} of {goal}"))
            .collect()
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (moment, count) in &other.kills {
            *self.kills.entry(*moment).or_default() += count;
        }
        self.same_name += other.same_name;
        self.other_name += other.other_name;
        self.late_applied += other.late_applied;
        self.late_refused_first += other.late_refused_first;
        self.late_refused_later += other.late_refused_later;
        self.takeovers += other.takeovers;
        self.survivors += other.survivors;
        self.repos += other.repos;
        self.events += other.events;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moments = Moment::ALL.map(|moment| {
            let count = self.kills.get(&moment).copied().unwrap_or(0);
            format!("{} {count}", moment.name())
        });
        write!(
            f,
            "{} kills ({}), restarts: {} same name, {} other name; late EXECs: {} executed, {} refused ({} of them not the first); {} takeovers; {} repos ({} of them killed midway), {} events",
            self.kills(),
            moments.join(", "),
            self.same_name,
            self.other_name,
            self.late_applied,
            self.late_refused_first + self.late_refused_later,
            self.late_refused_later,
            self.takeovers,
            self.repos,
            self.survivors,
            self.events,
        )
    }
}
