//! The program, with a single worker, among adversaries.
//!
//! After each case a good repo must come through the same worker in time, which shows that it is free again. At the end the
//! process must hold what it held before, each message that failed be a dead letter with its reason (or wait, where it was
//! deferred), and no event be there that no good repo has.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::super::backfiller::Backfiller;
use super::super::events::{dead_letters, pending_messages};
use super::super::generator::Repo;
use super::super::hostile::outcomes::{self, Outcome};
use super::super::hostile::stage::Stage;
use super::super::wait::{eventually, within};
use super::Case;
use super::resources::Resources;
use super::server::Adversary;

/// The whole time-out of a download in seconds.
const TIMEOUT: &str = "2";
/// How long a job may take: longer than that on a busy machine, but nothing against the adversary's patience, which has no
/// end, or the program's other time-outs.
const BOUND: Duration = Duration::from_secs(12);
/// What a repo may have in bytes.
pub const MAX_REPO_BYTES: usize = 2 * 1024 * 1024;
/// How much more memory a storm may take than two small repos, in KiB: an arena of the size of the largest repo, twice while
/// it grows, as much for its index at the most, and the same again for what the allocator keeps.
const MORE_MEMORY: u64 = 16 * 1024;
/// How many descriptors more there may be after a storm, beside connections to Redis: a worker keeps up to four connections
/// to servers of repos, and had one before it. That to the directory was there before, too.
const MORE_DESCRIPTORS: usize = 3;
/// How many connections to Redis more: a thread that had nothing to say to it yet, the keeper, connects when it has.
const MORE_TO_REDIS: usize = 1;

/// A running program, what it held at rest, and what has become of the messages so far.
pub struct Storm {
    stage: Stage,
    program: Backfiller,
    before: Resources,
    /// How many connections to Redis it had.
    to_redis: usize,
    done: Vec<Arc<Repo>>,
    /// The ids of the messages, and the reasons.
    failed: Vec<(String, String)>,
    /// All that was not as it must be; said together at the end.
    complaints: Vec<String>,
}

/// Sends so many programs through the cases, dealt among them, all at the same time: for cases that take long and do little.
pub fn endure_apart(programs: usize, cases: Vec<Case>) {
    let mut hands: Vec<Vec<Case>> = (0..programs).map(|_| Vec::new()).collect();
    for (place, case) in cases.into_iter().enumerate() {
        hands[place % programs].push(case);
    }
    thread::scope(|scope| {
        for hand in hands {
            scope.spawn(|| {
                let mut storm = Storm::begin(&[]);
                storm.endure_all(hand);
                storm.end();
            });
        }
    });
}

impl Storm {
    /// Starts the program with these variables beside those that bound it.
    pub fn begin(settings: &[(&str, &str)]) -> Self {
        let stage = Stage::new();
        let mut program = stage
            .program()
            .env("BACKFILLER_CONCURRENCY", "1")
            .env("BACKFILLER_HTTP_TIMEOUT_SECS", TIMEOUT)
            .env("BACKFILLER_MAX_REPO_BYTES", MAX_REPO_BYTES.to_string())
            // What fails is a dead letter at once, and what is deferred waits for longer than a test takes.
            .env("BACKFILLER_MAX_ATTEMPTS", "1")
            .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "600000");
        for (name, value) in settings {
            program = program.env(name, value);
        }
        let program = program.start();
        let mut storm = Self {
            // Taken again below, at rest.
            before: Resources::of(program.pid()),
            to_redis: 0,
            stage,
            program,
            done: Vec::new(),
            failed: Vec::new(),
            complaints: Vec::new(),
        };
        // All connections that are kept are there after a first job, and a second one has found them.
        for _ in 0..2 {
            storm.good("before");
        }
        // A thread has the name of the one that started it until it gives itself its own.
        storm.before = eventually("each thread has its name", || {
            let before = Resources::of(storm.program.pid());
            let named = before.threads.windows(2).all(|pair| pair[0] != pair[1]);
            named.then_some(before)
        });
        storm.to_redis = connections(&mut storm.stage.connection);
        storm
    }

    /// One after the other.
    pub fn endure_all(&mut self, cases: Vec<Case>) {
        for case in cases {
            self.endure(case);
        }
    }

    /// A message whose host is the adversary, and then a good one.
    pub fn endure(&mut self, case: Case) {
        let case = Arc::new(case);
        let repo = Arc::new(self.stage.account());
        let adversary = Adversary::start(&case, &repo);
        // The adversary is the account's own server, so its word counts.
        let document = repo.did_document(adversary.url());
        self.stage.server.put_document(&repo.did, document);
        let outcome = self.job(&repo, adversary.url(), &case.name);
        if !case.ends.contains(&outcome.how.as_str()) {
            let wanted = case.ends.join(" or ");
            self.complain(&case.name, &format!("not {wanted}: {}", outcome.line));
        }
        self.good(&case.name);
    }

    fn good(&mut self, case: &str) {
        let repo = Arc::new(self.stage.account());
        let url = self.stage.server.url();
        let outcome = self.job(&repo, &url, case);
        if outcome.how != "done" {
            self.complain(case, &format!("no good repo after it: {}", outcome.line));
        }
    }

    /// Runs the one message to its end.
    fn job(&mut self, repo: &Arc<Repo>, host: &str, case: &str) -> Outcome {
        let began = Instant::now();
        self.stage.enqueue(&repo.did, Some(host));
        // Is shown where the line never comes.
        println!("{case}");
        let ends = ["] done ", "] failed ", "] deferred "];
        let is_end = |line: &str| ends.iter().any(|end| line.contains(end));
        let of_it = format!(" did={} ", repo.did);
        self.program
            .wait_for_line(|line| is_end(line) && line.contains(&of_it));
        let ended = outcomes::so_far(&self.program);
        let outcome = outcomes::of(&ended, &repo.did).clone();
        if began.elapsed() > BOUND {
            let text = format!("{:?} for {}", began.elapsed(), outcome.line);
            self.complain(case, &text);
        }
        if outcome.how == "done" {
            self.done.push(Arc::clone(repo));
        } else {
            let (id, _) = self.stage.messages.last().expect("the message");
            self.failed.push((id.clone(), outcome.how.clone()));
        }
        outcome
    }

    fn complain(&mut self, case: &str, text: &str) {
        self.complaints.push(format!("{case}: {text}"));
    }

    /// What must hold after all of it.
    #[track_caller]
    pub fn end(mut self) {
        self.complain_of_resources();
        let lines = self.program.lines();
        for line in lines.iter().filter(|line| line.contains("panic")) {
            self.complaints.push(line.clone());
        }
        outcomes::stop(self.program);
        let connection = &mut self.stage.connection;
        let pending = pending_messages(connection);
        let letters = dead_letters(connection);
        for (id, reason) in &self.failed {
            let kept = match reason.as_str() {
                // It waits, and is not charged.
                "deferred" => pending.iter().any(|message| message.id == *id),
                _ => letters
                    .iter()
                    .any(|letter| letter["id"] == *id && letter["reason"] == *reason),
            };
            if !kept {
                let text = format!("the message {id} of reason {reason} is not where it should be");
                self.complaints.push(text);
            }
        }
        assert!(self.complaints.is_empty(), "{}", self.complaints.join("\n"));
        self.stage
            .assert_events(self.done.iter().map(|repo| &**repo));
    }

    /// The last job is over, but its thread may still be tidying up.
    fn complain_of_resources(&mut self) {
        let (before, had) = (&self.before, self.to_redis);
        let pid = self.program.pid();
        let connection = &mut self.stage.connection;
        let mut look = || (Resources::of(pid), connections(connection));
        let beside = |held: &Resources, to_redis: usize| held.descriptors.len() - to_redis;
        let at_most = beside(before, had) + MORE_DESCRIPTORS;
        let is_right = |held: &Resources, to_redis| {
            held.threads == before.threads
                && beside(held, to_redis) <= at_most
                && to_redis <= had + MORE_TO_REDIS
        };
        let _ = within(Duration::from_secs(5), || {
            let (now, to_redis) = look();
            is_right(&now, to_redis)
        });
        let (now, to_redis) = look();
        let peaks = format!("{} KiB at rest, {} at the peak", before.peak, now.peak);
        println!("{peaks}; {had} connections to Redis, now {to_redis}");
        println!(
            "descriptors {:#?}\nnow {:#?}",
            before.descriptors, now.descriptors
        );
        if !is_right(&now, to_redis) {
            let text = format!(
                "{} descriptors, {had} of them to Redis, threads {:?}\nnow {}, {to_redis} of them to Redis, {:?}",
                before.descriptors.len(),
                before.threads,
                now.descriptors.len(),
                now.threads
            );
            self.complaints.push(text);
        }
        if now.peak > before.peak + MORE_MEMORY {
            self.complaints.push(peaks);
        }
    }
}

/// How many connections to Redis there are beside this one.
fn connections(connection: &mut redis::Connection) -> usize {
    let mut list = redis::cmd("CLIENT");
    let clients: String = list.arg("LIST").query(connection).expect("the clients");
    clients.lines().count() - 1
}
