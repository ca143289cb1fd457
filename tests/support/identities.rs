//! Repositories of keys of their own choice, their documents, and jobs on them: what the tests of identities share.

use super::backfiller::Builder;
use super::fixture_server::FixtureServer;
use super::generator::{Repo, RepoBuilder, SigningKey, records};
use super::hostile::stage::Stage;

/// The repo of an account and a key of its own choice.
pub fn repo(did: &str, key: &SigningKey) -> Repo {
    let records = records::mixed(5, 7);
    RepoBuilder::new(did)
        .key(key.clone())
        .records(records)
        .build()
}

/// Registers the repo with the directory and with its PDS.
pub fn serve(stage: &Stage, repo: &Repo, pds: &FixtureServer) {
    let document = repo.did_document(&pds.url());
    stage.server.put_document(&repo.did, document);
    pds.put_repo(&repo.did, repo.car());
}

pub fn enqueue(stage: &mut Stage, did: &str, host: Option<&FixtureServer>) {
    stage.enqueue(did, host.map(FixtureServer::url).as_deref());
}

/// Runs the one message of the account; returns how its job ended.
#[track_caller]
pub fn run(stage: &mut Stage, program: Builder, did: &str, host: Option<&FixtureServer>) -> String {
    enqueue(stage, did, host);
    stage.run_one(program)
}
