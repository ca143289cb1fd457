//! Gates as threads share them: whose rules hold, and what becomes of permits.

use super::*;
use crate::cli::Cli;
use crate::fetch::limits::Limits;

fn hosts_with(change: impl FnOnce(&mut Cli)) -> Arc<Hosts> {
    let mut cli = Cli {
        consumer: Some("one".to_owned()),
        ..Cli::default()
    };
    change(&mut cli);
    Hosts::new(&Arc::new(Config::from_cli(&cli).unwrap()))
}

/// How many permits there are at once, at a host that has answered before.
fn room(gate: &HostGate) -> usize {
    for _ in 0..20 {
        let mut permit = gate.permit_in_advance().unwrap();
        permit.begin();
        permit.answered(200, &Limits::default());
    }
    match gate.allowance(Instant::now() + Duration::from_secs(10)) {
        Allowance::Now(count) => count,
        _ => 0,
    }
}

#[test]
fn the_defaults_are_for_public_hosts_and_what_is_set_is_for_all() {
    let own = Key::host("10.0.0.1:443", true);
    let public = Key::host("pds.example:443", false);
    let hosts = hosts_with(|_| {});
    // What a quarter of a second saves up, of ten a second.
    assert_eq!(room(&hosts.gate(&public)), 2);
    assert!(room(&hosts.gate(&own)) > 1000);
    let hosts = hosts_with(|cli| {
        cli.requests.host_rps = Some("40".to_owned());
        cli.requests.host_concurrency = Some("3".to_owned());
    });
    assert_eq!(room(&hosts.gate(&public)), 3);
    assert_eq!(room(&hosts.gate(&own)), 3);
}

#[test]
fn a_name_that_leads_to_the_operators_own_network_has_no_limit() {
    let hosts = hosts_with(|_| {});
    let key = Key::host("pds.internal:443", false);
    let gate = hosts.gate(&key);
    assert_eq!(gate.allowance(Instant::now()), Allowance::Now(1));
    hosts.turned_out_private(&key);
    assert!(matches!(
        gate.allowance(Instant::now()),
        Allowance::Now(1000..)
    ));
}

#[test]
fn the_directory_is_apart_from_a_host_at_its_address() {
    let hosts = hosts_with(|cli| cli.requests.host_rps = Some("1".to_owned()));
    let (host, directory) = (
        Key::host("127.0.0.1:80", true),
        Key::directory("127.0.0.1:80", true),
    );
    let directory = hosts.gate(&directory);
    assert!(!directory.is(&hosts.gate(&host)));
    assert!(room(&directory) > 1000, "the operator's own");
    let mut permit = directory.permit(Instant::now()).unwrap();
    permit.begin();
    permit.answered(429, &Limits::default());
    assert!(directory.is_closed(Instant::now()) && directory.permit_in_advance().is_none());
    assert!(hosts.gate(&host).permit(Instant::now()).is_some());
    let public = hosts.gate(&Key::directory("plc.example:443", false));
    assert_eq!(room(&public), 12, "a quarter of a second's, of fifty");
}

#[test]
fn a_permit_that_was_not_used_is_as_if_it_had_not_been() {
    let hosts = hosts_with(|cli| cli.requests.host_rps = Some("0.01".to_owned()));
    let gate = hosts.gate(&Key::host("pds.example:443", false));
    for _ in 0..10 {
        let permit = gate.permit(Instant::now()).expect("the one token");
        assert!(gate.permit(Instant::now()).is_none());
        drop(permit);
        assert_eq!(hosts.woken().try_recv(), Ok(()), "whoever waits is woken");
    }
    let mut permit = gate.permit(Instant::now()).unwrap();
    permit.begin();
    drop(permit);
    assert!(gate.permit(Instant::now()).is_none());
}

#[test]
fn one_permit_serves_one_request_and_another_at_the_same_host_needs_another_token() {
    let hosts = hosts_with(|cli| cli.requests.host_rps = Some("8".to_owned()));
    let gate = hosts.gate(&Key::host("pds.example:443", false));
    let other = hosts.gate(&Key::host("other.example:443", false));
    let mut permits = Permits {
        host: gate.permit(Instant::now()),
        ..Permits::default()
    };
    assert!(
        permits
            .take(&other)
            .is_some_and(|permit| permit.is_for(&other))
    );
    let mut permit = permits.take(&gate).unwrap();
    assert!(permits.host.is_none());
    permit.begin();
    assert!(!permit.renew(), "the one token is used");
    std::thread::sleep(Duration::from_millis(130));
    assert!(permit.renew(), "the slot is there already");
}

#[test]
fn for_a_strangers_sake_only_so_much_is_owed_and_nothing_while_a_host_is_closed() {
    let hosts = hosts_with(|cli| cli.requests.host_rps = Some("3".to_owned()));
    let gate = hosts.gate(&Key::host("pds.example:443", false));
    let used = || {
        let mut permit = gate.permit_on_credit()?;
        permit.begin();
        Some(())
    };
    // The next one comes after as long as two tokens take.
    assert_eq!((0..1000).map_while(|_| used()).count(), 1);
    let mut own = gate.permit_in_advance().expect("that is another matter");
    own.begin();
    own.answered(429, &Limits::default());
    let other = hosts.gate(&Key::host("other.example:443", false));
    assert!(other.permit_on_credit().is_some());
    let mut refused = other.permit_in_advance().expect("it is open");
    refused.begin();
    refused.answered(429, &Limits::default());
    assert!(other.permit_on_credit().is_none(), "closed");
}

#[test]
fn hosts_that_need_no_remembering_are_forgotten_and_others_are_not() {
    let hosts = hosts_with(|_| {});
    let troubled = Key::host("troubled.example:443", false);
    let mut permit = hosts.gate(&troubled).permit(Instant::now()).unwrap();
    permit.begin();
    permit.answered(429, &Limits::default());
    drop(permit);
    for n in 0..3 * MANY {
        hosts.gate(&Key::host(&format!("h{n}.example:443"), false));
    }
    assert!(hosts.gate(&troubled).is_closed(Instant::now()));
}

/// A gate that lets two in.
fn gate() -> HostGate {
    let cli = Cli {
        consumer: Some("one".to_owned()),
        ..Cli::default()
    };
    let hosts = Hosts::new(&Arc::new(Config::from_cli(&cli).unwrap()));
    hosts.gate(&Key::host("10.0.0.1:80", true))
}

fn permits(gate: &HostGate) -> Permits {
    Permits {
        host: gate.permit(Instant::now()),
        ..Permits::default()
    }
}

#[test]
fn a_permit_from_before_is_of_no_use_while_its_host_is_closed() {
    let gate = gate();
    let (mut first, mut second) = (permits(&gate), permits(&gate));
    let mut permit = first.take(&gate).unwrap();
    permit.begin();
    permit.answered(429, &Limits::default());
    assert!(second.take(&gate).is_none());
    assert!(second.host.is_none(), "its slot is free again");
}

#[test]
fn a_request_that_was_made_after_the_host_had_closed_closes_it_again() {
    let gate = gate();
    let [mut before, mut after] = [(), ()].map(|()| gate.permit(Instant::now()).unwrap());
    before.begin();
    before.answered(429, &Limits::default());
    let opens = || match gate.allowance(Instant::now()) {
        Allowance::From(time) => time,
        allowance => panic!("{allowance:?}"),
    };
    let once = opens();
    before.answered(429, &Limits::default());
    assert_eq!(opens(), once, "refused together");
    after.begin();
    after.answered(429, &Limits::default());
    assert!(opens() > once, "refused again");
}

#[test]
fn a_permit_that_is_set_aside_keeps_its_token_and_not_its_slot() {
    let hosts = hosts_with(|cli| {
        cli.requests.host_rps = Some("1".to_owned());
        cli.requests.host_concurrency = Some("1".to_owned());
    });
    let gate = hosts.gate(&Key::host("pds.example:443", false));
    let now = Instant::now();
    let mut permit = gate.permit(now).unwrap();
    assert_eq!(gate.allowance(now), Allowance::WhenOneEnds);
    permit.set_aside();
    assert!(matches!(gate.allowance(now), Allowance::From(_)), "a slot");
    assert!(permit.renew());
    assert_eq!(gate.allowance(now), Allowance::WhenOneEnds);
    permit.set_aside();
    drop(permit);
    assert_eq!(gate.allowance(now), Allowance::Now(1), "and a token");
}

/// A request at a gate that anybody may use, answered so and then dropped.
fn ask(gate: &HostGate, status: u16, then: impl FnOnce(&mut Permit)) {
    let mut permit = gate.permit(Instant::now()).expect("it is open");
    permit.begin();
    permit.answered(status, &Limits::default());
    then(&mut permit);
}

#[test]
fn bodies_that_are_cut_close_a_gate_and_what_is_not_the_hosts_fault_does_not() {
    let gate = gate();
    // An error that came whole is a sign of life as well, and so is an answer that was not wanted to its end.
    for status in [200, 302, 404, 500] {
        (0..4).for_each(|_| ask(&gate, 200, Permit::cut));
        ask(&gate, status, |_| {});
    }
    // Neither good nor bad.
    (0..20).for_each(|_| ask(&gate, 200, Permit::given_up));
    (0..4).for_each(|_| ask(&gate, 200, Permit::cut));
    (0..20).for_each(|_| ask(&gate, 200, Permit::given_up));
    assert!(!gate.is_closed(Instant::now()));
    ask(&gate, 404, Permit::cut);
    assert!(gate.is_closed(Instant::now()), "five in a row");
}

#[test]
fn one_body_is_cut_once_and_one_of_a_refusal_not_at_all() {
    let gate = gate();
    ask(&gate, 200, |permit| (0..20).for_each(|_| permit.cut()));
    assert!(!gate.is_closed(Instant::now()));
    let mut permits = [(), ()].map(|()| gate.permit(Instant::now()).unwrap());
    for permit in &mut permits {
        permit.begin();
        permit.answered(429, &Limits::default());
    }
    let opens = |gate: &HostGate| match gate.allowance(Instant::now()) {
        Allowance::From(time) => time,
        allowance => panic!("{allowance:?}"),
    };
    let once = opens(&gate);
    permits.iter_mut().for_each(Permit::cut);
    assert_eq!(opens(&gate), once);
}

/// A host that sends everybody to another address of its own, where bodies break off, has not given a whole answer by that.
#[test]
fn a_redirect_within_a_host_is_not_yet_an_answer() {
    for rps in [None, Some("0.1".to_owned())] {
        let hosts = hosts_with(|cli| cli.requests.host_rps = rps.clone());
        let gate = hosts.gate(&Key::host("10.0.0.1:80", true));
        for _ in 0..5 {
            let mut permits = Permits {
                host: gate.permit_in_advance(),
                ..Permits::default()
            };
            let mut permit = permits.host.take().expect("it is open");
            permit.begin();
            permit.answered(302, &Limits::default());
            permits.host = Some(permit);
            // Where there is no token, it is owed.
            let next = permits.take(&gate).or_else(|| gate.permit_in_advance());
            let mut permit = next.expect("it is open");
            permit.begin();
            permit.answered(200, &Limits::default());
            permit.cut();
        }
        assert!(gate.is_closed(Instant::now()), "{rps:?}");
    }
}
