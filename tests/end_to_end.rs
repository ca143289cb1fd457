//! The main job: from a message to the events of its repo, through the real binary.

mod support;

use support::backfiller::Backfiller;
use support::events::{
    OUTPUT, assert_repo_events, dead_letters, enqueue, read_events, wait_until_drained,
};
use support::fixture_server::FixtureServer;
use support::generator::{RepoBuilder, SigningKey, did_plc, records};
use support::redis_server::RedisServer;

#[test]
fn repos_of_all_sizes_become_their_events() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let sizes = [0, 1, 2, 7, 499, 500, 501, 1000, 1001, 3000];
    let mut repos = Vec::new();
    for (n, size) in sizes.into_iter().enumerate() {
        let seed = n as u64;
        let key = if n % 2 == 0 {
            SigningKey::k256(seed)
        } else {
            SigningKey::p256(seed)
        };
        let repo = RepoBuilder::new(did_plc(seed))
            .key(key)
            .records(records::mixed(seed, size))
            .build();
        server.put_document(&repo.did, repo.did_document(&server.url()));
        let car = if n % 3 == 0 {
            repo.car()
        } else {
            repo.car_shuffled(seed)
        };
        server.put_repo(&repo.did, car);
        enqueue(&mut connection, &repo.did, Some(&server.url()));
        repos.push(repo);
    }
    let mut backfiller = Backfiller::builder(&redis, &server).start();
    wait_until_drained(&mut connection);
    backfiller.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));

    let events = read_events(&mut connection, OUTPUT);
    for repo in &repos {
        assert_repo_events(
            &events,
            &repo.did,
            &repo.commit_cid.to_string(),
            &repo.rev,
            &repo.expected,
        );
    }
    assert!(dead_letters(&mut connection).is_empty());
}
