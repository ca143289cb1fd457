//! The rules of a gate, in virtual time.

use super::*;

const PUBLIC: Rules = Rules {
    concurrency: Some(10),
    rate: Some(10.0),
    max_deferred: Some(Duration::from_secs(72 * 3600)),
    longest_pause: LONGEST_PAUSE,
};
const FREE: Rules = Rules {
    concurrency: None,
    rate: None,
    ..PUBLIC
};

/// A gate and its clock.
struct Clocked {
    gate: Gate,
    start: Instant,
    now: Instant,
}

impl Clocked {
    fn new(rules: Rules) -> Self {
        let now = Instant::now();
        Clocked {
            gate: Gate::new(rules, now),
            start: now,
            now,
        }
    }

    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    /// How many may be begun now.
    fn room(&mut self) -> usize {
        match self.gate.allowance(self.now) {
            Allowance::Now(count) => count,
            _ => 0,
        }
    }

    /// Seconds from now until the gate opens.
    fn closed_for(&mut self) -> f64 {
        match self.gate.allowance(self.now) {
            Allowance::From(time) if self.gate.is_closed(self.now) => {
                (time - self.now).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    /// One request and its answer.
    fn ask(&mut self, status: u16, limits: &Limits) {
        let time = self.gate.begin(self.now);
        self.gate.answered(time, status, limits, self.now);
        self.gate.completed(time);
        self.gate.end(time, true);
    }

    fn ask_in_vain(&mut self) {
        let time = self.gate.begin(self.now);
        self.gate.unreachable(time, self.now);
        self.gate.end(time, true);
    }

    /// One request, an answer that begins well, and a body that breaks off.
    fn ask_and_be_cut(&mut self) {
        let time = self.gate.begin(self.now);
        self.gate.answered(time, 200, &Limits::default(), self.now);
        self.gate.unreachable(time, self.now);
        self.gate.end(time, true);
    }

    /// So many successes, one after the other.
    fn succeed(&mut self, times: usize) {
        for _ in 0..times {
            self.pass(1.0);
            self.ask(200, &Limits::default());
        }
    }
}

fn told(remaining: u64, reset: u64) -> Limits {
    Limits {
        remaining: Some(remaining),
        reset: Some(Duration::from_secs(reset)),
        ..Limits::default()
    }
}

fn retry_after(seconds: u64) -> Limits {
    Limits {
        retry_after: Some(Duration::from_secs(seconds)),
        ..Limits::default()
    }
}

#[test]
fn a_host_starts_with_one_request_and_each_answer_allows_one_more() {
    let mut host = Clocked::new(PUBLIC);
    let mut in_flight = Vec::new();
    for allowed in 1..=10 {
        host.pass(10.0);
        while host.room() > 0 {
            in_flight.push(host.gate.begin(host.now));
            host.pass(0.1);
        }
        assert_eq!(in_flight.len(), allowed.min(10));
        assert_eq!(host.gate.allowance(host.now), Allowance::WhenOneEnds);
        let time = in_flight.pop().unwrap();
        host.gate.answered(time, 200, &Limits::default(), host.now);
        assert_eq!(host.room(), 0, "not before its body is there");
        host.gate.completed(time);
        host.gate.end(time, true);
    }
    host.succeed(100);
    host.pass(10.0);
    let mut begun = 0;
    while host.room() > 0 {
        host.gate.begin(host.now);
        host.pass(0.1);
        begun += 1;
    }
    assert_eq!(begun + in_flight.len(), 10, "never more than the cap");
}

#[test]
fn the_operators_own_hosts_have_no_limit_until_one_is_told() {
    let mut host = Clocked::new(FREE);
    for _ in 0..5000 {
        assert!(host.room() > 1000);
        host.gate.begin(host.now);
    }
    let mut host = Clocked::new(FREE);
    host.ask(200, &told(20, 10));
    host.pass(1.0);
    host.gate.begin(host.now);
    host.gate.begin(host.now);
    assert_eq!(host.room(), 0, "two a second");
    host.ask(429, &Limits::default());
    assert_eq!(host.closed_for(), 30.0);
}

#[test]
fn a_pause_without_a_word_doubles_up_to_an_hour_and_begins_anew_after_a_success() {
    let mut host = Clocked::new(PUBLIC);
    for pause in [
        30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0,
    ] {
        host.ask(429, &Limits::default());
        assert_eq!(host.closed_for(), pause);
        host.pass(pause);
        assert_eq!(host.room(), 1, "slow start");
    }
    host.succeed(1);
    host.ask(503, &Limits::default());
    assert_eq!(host.closed_for(), 30.0);
}

#[test]
fn a_host_is_believed_when_to_come_back_but_not_for_ever() {
    let mut host = Clocked::new(PUBLIC);
    for pause in [7.0, 7.0, 7.0, 30.0, 60.0] {
        host.ask(429, &retry_after(7));
        assert_eq!(host.closed_for(), pause);
        host.pass(pause);
    }
    host.succeed(1);
    host.ask(429, &retry_after(0));
    assert_eq!(host.closed_for(), 30.0, "at once is no word");
    host.pass(30.0);
    host.succeed(1);
    host.ask(429, &retry_after(1_000_000));
    assert_eq!(host.closed_for(), 3600.0, "and none longer");
}

#[test]
fn refusals_of_requests_in_flight_are_one_refusal() {
    let mut host = Clocked::new(PUBLIC);
    host.succeed(10);
    let times: Vec<_> = (0..10).map(|_| host.gate.begin(host.now)).collect();
    for time in &times[..9] {
        host.gate.answered(*time, 429, &Limits::default(), host.now);
        host.gate.end(*time, true);
    }
    assert_eq!(host.closed_for(), 30.0);
    host.gate
        .answered(times[9], 429, &retry_after(100), host.now);
    assert_eq!(host.closed_for(), 100.0, "but the longest word counts");
}

#[test]
fn a_late_success_does_not_open_the_gate() {
    let mut host = Clocked::new(PUBLIC);
    host.succeed(10);
    let (early, late) = (host.gate.begin(host.now), host.gate.begin(host.now));
    host.gate.answered(early, 429, &Limits::default(), host.now);
    host.gate.answered(late, 200, &Limits::default(), host.now);
    assert_eq!(host.closed_for(), 30.0);
}

#[test]
fn nothing_left_closes_until_the_reset_and_what_is_left_is_spread() {
    let mut host = Clocked::new(PUBLIC);
    host.succeed(20);
    host.ask(200, &told(0, 12));
    assert_eq!(host.closed_for(), 12.0);
    host.pass(12.0);
    assert!(host.room() > 1, "no slow start: nobody has refused");
    host.ask(200, &told(30, 60));
    host.pass(10.0);
    let mut begun = 0;
    for _ in 0..400 {
        host.pass(0.1);
        if host.room() > 0 {
            let time = host.gate.begin(host.now);
            host.gate.end(time, true);
            begun += 1;
        }
    }
    assert!((19..=21).contains(&begun), "{begun} in 40 s at 30 a minute");
    host.pass(20.0);
    let time = host.gate.begin(host.now);
    host.gate.end(time, true);
    host.pass(0.15);
    assert!(
        host.room() > 0,
        "behind the reset the configured rate holds again"
    );
}

#[test]
fn a_policy_without_a_state_is_a_rate() {
    let mut host = Clocked::new(PUBLIC);
    host.succeed(20);
    let policy = Limits {
        limit: Some(120),
        window: Some(Duration::from_secs(60)),
        ..Limits::default()
    };
    host.pass(1.0);
    host.ask(200, &policy);
    assert_eq!(
        host.room(),
        1,
        "what was saved up at the higher rate is gone"
    );
    host.ask(200, &policy);
    host.pass(0.4);
    assert_eq!(host.room(), 0);
    host.pass(0.1);
    assert_eq!(host.room(), 1);
}

#[test]
fn no_number_that_a_host_says_is_too_large() {
    for seconds in [1, u64::MAX / 2, u64::MAX] {
        let mut host = Clocked::new(FREE);
        let most = Duration::from_secs(seconds);
        let limits = Limits {
            retry_after: Some(most),
            remaining: None,
            reset: Some(most),
            limit: Some(u64::MAX),
            window: Some(most),
        };
        for status in [200, 429] {
            host.ask(status, &limits);
            host.ask(
                status,
                &Limits {
                    remaining: Some(u64::MAX),
                    ..limits
                },
            );
            host.ask(
                status,
                &Limits {
                    remaining: Some(0),
                    ..limits
                },
            );
            assert!(host.closed_for() <= 3600.0);
            host.pass(3600.0);
        }
    }
}

#[test]
fn what_a_host_leaves_does_not_raise_the_configured_rate() {
    let mut host = Clocked::new(PUBLIC);
    host.succeed(20);
    host.ask(200, &told(1_000_000, 10));
    host.pass(0.25);
    assert_eq!(host.room(), 2);
}

#[test]
fn the_circuit_opens_after_five_failures_in_a_row_for_a_growing_time() {
    let mut host = Clocked::new(PUBLIC);
    for _ in 0..4 {
        host.ask_in_vain();
        host.pass(1.0);
    }
    host.succeed(1);
    for _ in 0..4 {
        host.ask_in_vain();
        assert_eq!(host.closed_for(), 0.0);
        host.pass(1.0);
    }
    for pause in [30.0, 60.0, 120.0] {
        host.ask_in_vain();
        assert_eq!(host.closed_for(), pause);
        host.pass(pause);
        assert_eq!(host.room(), 1, "one tries");
    }
    // Any answer shows that it is there.
    host.ask(500, &Limits::default());
    host.pass(1.0);
    host.ask_in_vain();
    assert_eq!(host.closed_for(), 0.0);
}

/// A host that answers and then drips or breaks off holds a worker as long as one that is silent.
#[test]
fn bodies_that_break_off_open_the_circuit_however_well_they_begin() {
    let mut host = Clocked::new(PUBLIC);
    host.succeed(20);
    for failures in 1..=4 {
        host.ask_and_be_cut();
        assert_eq!(host.closed_for(), 0.0, "{failures}");
        host.pass(1.0);
    }
    for pause in [30.0, 60.0, 120.0] {
        host.ask_and_be_cut();
        assert_eq!(host.closed_for(), pause);
        host.pass(pause);
        assert_eq!(host.room(), 1, "one tries");
    }
    host.succeed(1);
    assert!(host.gate.trouble.is_none(), "a whole answer ends it");
    host.pass(1.0);
    (0..4).for_each(|_| host.ask_and_be_cut());
    assert_eq!(host.closed_for(), 0.0);
    // They count together with those that do not even begin.
    host.ask_in_vain();
    assert_eq!(host.closed_for(), 30.0);
}

/// A repo that is too slow again and again, at a host whose others come well, and one bad moment.
#[test]
fn a_whole_answer_between_two_that_break_off_keeps_the_circuit_closed() {
    let mut host = Clocked::new(PUBLIC);
    for status in [200, 301, 400, 404, 500].repeat(20) {
        host.pass(1.0);
        host.ask_and_be_cut();
        host.pass(1.0);
        host.ask(status, &Limits::default());
        assert_eq!(host.closed_for(), 0.0, "{status}");
    }
    host.succeed(20);
    host.pass(1.0);
    assert_eq!(host.room(), 2, "at full speed");
}

#[test]
fn an_answer_has_to_come_to_its_end_before_it_shows_that_its_host_is_well() {
    let mut host = Clocked::new(PUBLIC);
    host.succeed(20);
    (0..4).for_each(|_| host.ask_and_be_cut());
    let begun = host.gate.begin(host.now);
    host.gate.answered(begun, 200, &Limits::default(), host.now);
    assert!(host.gate.trouble.is_some(), "not by its head");
    host.ask_and_be_cut();
    assert_eq!(host.closed_for(), 30.0, "five in a row");
    // And one that was begun before the circuit opened says nothing of the time since.
    host.gate.completed(begun);
    host.gate.end(begun, true);
    host.pass(30.0);
    host.ask_and_be_cut();
    assert_eq!(host.closed_for(), 60.0);
}

/// A host that refuses no more is believed anew from the head of an answer on, whatever becomes of its body.
#[test]
fn the_head_of_an_answer_ends_a_row_of_refusals() {
    let mut host = Clocked::new(PUBLIC);
    for pause in [30.0, 60.0, 120.0] {
        host.ask(429, &Limits::default());
        assert_eq!(host.closed_for(), pause);
        host.pass(pause);
    }
    host.ask_and_be_cut();
    assert_eq!(host.closed_for(), 0.0);
    host.ask(429, &Limits::default());
    assert_eq!(host.closed_for(), 30.0);
}

/// Nothing but heads, for as long as a host is waited for: it is given up as one that is silent.
#[test]
fn a_host_whose_bodies_break_off_for_too_long_is_given_up() {
    let mut host = Clocked::new(Rules {
        max_deferred: Some(Duration::from_secs(100)),
        ..PUBLIC
    });
    host.succeed(20);
    let since = host.now;
    (0..5).for_each(|_| host.ask_and_be_cut());
    for pause in [30.0, 60.0] {
        assert!(matches!(host.gate.allowance(host.now), Allowance::From(_)));
        host.pass(pause);
        host.ask_and_be_cut();
    }
    host.pass(20.0);
    assert_eq!(host.gate.allowance(host.now), Allowance::GivenUp(since));
}

#[test]
fn a_host_in_trouble_for_too_long_is_given_up_until_it_is_tried_again() {
    let mut host = Clocked::new(Rules {
        max_deferred: Some(Duration::from_secs(100)),
        ..PUBLIC
    });
    host.ask(429, &Limits::default());
    let since = host.now;
    host.pass(30.0);
    host.ask(429, &Limits::default());
    host.pass(59.0);
    assert!(matches!(host.gate.allowance(host.now), Allowance::From(_)));
    host.pass(1.0);
    host.ask(429, &Limits::default());
    assert!(matches!(host.gate.allowance(host.now), Allowance::From(_)));
    host.pass(10.0);
    assert_eq!(host.gate.allowance(host.now), Allowance::GivenUp(since));
    host.pass(110.0);
    assert_eq!(host.room(), 1, "it is tried");
    host.ask(200, &Limits::default());
    host.pass(1.0);
    assert!(host.room() > 0, "and is as any other again");
    assert!(host.gate.trouble.is_none());
    assert!(host.start < host.now);
}

#[test]
fn a_gate_can_be_forgotten_soon_and_one_that_was_closed_after_the_longest_pause() {
    let mut host = Clocked::new(PUBLIC);
    host.succeed(1);
    host.ask_in_vain();
    assert!(!host.gate.is_idle(host.now));
    host.pass(61.0);
    assert!(host.gate.is_idle(host.now));
    let time = host.gate.begin(host.now);
    host.pass(61.0);
    assert!(!host.gate.is_idle(host.now), "somebody is there");
    host.gate.answered(time, 429, &Limits::default(), host.now);
    host.gate.end(time, true);
    host.pass(3000.0);
    assert!(!host.gate.is_idle(host.now));
    host.pass(601.0);
    assert!(host.gate.is_idle(host.now));
}

/// How many are lent in so many seconds to those who come again and again, and how many are left to those who wait.
#[test]
fn credit_is_half_the_rate_and_the_other_half_is_for_those_who_wait() {
    for (rate, lent, given) in [(10.0, 50, 50), (1.0, 5, 5), (0.1, 1, 1)] {
        let mut host = Clocked::new(Rules {
            concurrency: None,
            rate: Some(rate),
            ..PUBLIC
        });
        let (mut on_credit, mut by_turns) = (0, 0);
        // Ten seconds.
        for _ in 0..1000 {
            if host.room() > 0 {
                host.gate.begin(host.now);
                by_turns += 1;
            }
            if host.gate.lend(host.now) {
                host.gate.begin(host.now);
                on_credit += 1;
            }
            host.pass(0.01);
        }
        assert!(
            (lent..=lent + 1).contains(&on_credit),
            "{rate}: {on_credit} lent"
        );
        assert!(by_turns + 1 >= given, "{rate}: {by_turns} given");
        let all = on_credit + by_turns;
        assert!(all as f64 <= 12.0 * rate + 2.0, "{rate}: {all}");
    }
    let mut host = Clocked::new(FREE);
    for _ in 0..1000 {
        assert!(host.gate.lend(host.now), "nothing is ever owed");
        host.gate.begin(host.now);
    }
    let mut host = Clocked::new(PUBLIC);
    host.gate.begin(host.now);
    host.pass(60.0);
    assert!(!host.gate.lend(host.now), "a token, and no slot");
}

/// What is still in flight from before says nothing of now, but for the cap.
#[test]
fn requests_from_before_do_not_stand_in_the_way_of_who_tries() {
    let mut host = Clocked::new(PUBLIC);
    host.succeed(20);
    let slow: Vec<_> = (0..9).map(|_| host.gate.begin(host.now)).collect();
    host.pass(60.0);
    for _ in 0..5 {
        host.ask_in_vain();
    }
    assert!(host.closed_for() > 0.0);
    host.pass(40.0);
    assert_eq!(host.room(), 1, "one tries");
    let time = host.gate.begin(host.now);
    assert_eq!(host.gate.allowance(host.now), Allowance::WhenOneEnds);
    host.gate.completed(time);
    host.gate.end(time, true);
    host.pass(10.0);
    assert_eq!(host.room(), 1, "ten in all");
    for time in slow {
        host.gate.end(time, true);
    }
    assert_eq!(host.room(), 2);
}

/// Since when a host is in trouble is known only as long as somebody asks it.
#[test]
fn a_host_that_was_not_asked_for_long_is_not_given_up_for_it() {
    let mut host = Clocked::new(PUBLIC);
    host.succeed(1);
    host.ask_in_vain();
    host.pass(80.0 * 3600.0);
    host.ask(429, &Limits::default());
    assert_eq!(
        host.closed_for(),
        30.0,
        "one bad moment, and days later one refusal"
    );
    host.pass(71.0 * 3600.0);
    (0..5).for_each(|_| host.ask_in_vain());
    assert!(matches!(host.gate.allowance(host.now), Allowance::From(_)));
}

#[test]
fn a_late_success_ends_neither_the_slow_start_nor_the_doubling() {
    let mut host = Clocked::new(PUBLIC);
    host.succeed(10);
    for pause in [30.0, 60.0] {
        let early = host.gate.begin(host.now);
        let late: Vec<_> = (0..8).map(|_| host.gate.begin(host.now)).collect();
        host.gate.answered(early, 429, &Limits::default(), host.now);
        host.gate.end(early, true);
        for time in late {
            host.gate.answered(time, 200, &Limits::default(), host.now);
            host.gate.completed(time);
            host.gate.end(time, true);
        }
        assert_eq!(host.closed_for(), pause);
        host.pass(pause + 10.0);
        assert_eq!(host.room(), 1, "one tries");
        let time = host.gate.begin(host.now);
        assert_eq!(host.gate.allowance(host.now), Allowance::WhenOneEnds);
        host.gate.end(time, false);
    }
}

#[test]
fn a_gate_is_shut_until_a_try_has_come_to_its_end() {
    let mut it = Clocked::new(FREE);
    it.ask(429, &retry_after(2));
    assert!(it.gate.is_shut(it.now));
    it.pass(3.0);
    assert!(!it.gate.is_shut(it.now), "it may be tried");
    let time = it.gate.begin(it.now);
    assert!(it.gate.is_shut(it.now) && !it.gate.is_closed(it.now));
    it.gate.answered(time, 200, &Limits::default(), it.now);
    it.gate.completed(time);
    it.gate.end(time, true);
    // It starts slowly, and is busy, but is not shut.
    it.gate.begin(it.now);
    it.gate.begin(it.now);
    assert!(it.gate.starts_slowly() && !it.gate.is_shut(it.now));
}
