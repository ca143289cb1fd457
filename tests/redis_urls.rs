//! The kinds of REDIS_URL: a socket of the file system, TLS with a certificate of the operator's own, a database other than 0.
//! (TCP is what all other tests use.)

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use redis::Connection;

use support::backfiller::{Backfiller, Builder};
use support::events::{INPUT, OUTPUT, assert_repo, enqueue, read_events, wait_until_drained};
use support::fixture_server::{FixtureServer, served};
use support::redis_server::RedisServer;
use support::wait::eventually;

/// Backfills one repo with this program.
fn backfills(server: &FixtureServer, connection: &mut Connection, program: Builder) {
    let repo = served(server, 1, 700);
    enqueue(connection, &repo.did, Some(&server.url()));
    let _backfiller = program.start();
    wait_until_drained(connection);
    assert_repo(&read_events(connection, OUTPUT), &repo);
}

#[test]
fn a_socket_of_the_file_system() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("redis.sock");
    let socket = socket.to_str().expect("a path");
    let redis = RedisServer::start_with(&["--unixsocket", socket]);
    let server = FixtureServer::start();
    let program = Backfiller::builder(&redis, &server).env("REDIS_URL", format!("unix://{socket}"));
    backfills(&server, &mut redis.connection(), program);
}

#[test]
fn another_database() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let () = redis::cmd("SELECT").arg(3).query(&mut connection).unwrap();
    let program =
        Backfiller::builder(&redis, &server).env("REDIS_URL", format!("{}/3", redis.url()));
    backfills(&server, &mut connection, program);
    let () = redis::cmd("SELECT").arg(0).query(&mut connection).unwrap();
    let exists: usize = redis::cmd("EXISTS")
        .arg(INPUT)
        .query(&mut connection)
        .unwrap();
    assert_eq!(exists, 0);
}

/// Writes a certificate for localhost, its key, and the authority that has signed it.
fn certificates(folder: &Path) {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).expect("signed").pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    let server = server.signed_by(&key, &issuer).expect("signed");
    fs::write(folder.join("ca.pem"), authority_pem).expect("written");
    fs::write(folder.join("cert.pem"), server.pem()).expect("written");
    fs::write(folder.join("key.pem"), key.serialize_pem()).expect("written");
}

/// Opens a port for TLS; `None` where the server was built without it.
fn open_tls(connection: &mut Connection, folder: &Path) -> Option<u16> {
    let mut set = |name: &str, value: &str| {
        let mut command = redis::cmd("CONFIG");
        command
            .arg("SET")
            .arg(name)
            .arg(value)
            .query::<()>(connection)
    };
    set("tls-auth-clients", "no").ok()?;
    let file = |name| folder.join(name).to_str().expect("a path").to_owned();
    let files = [
        ("tls-cert-file", "cert.pem"),
        ("tls-key-file", "key.pem"),
        ("tls-ca-cert-file", "ca.pem"),
    ];
    let mut command = redis::cmd("CONFIG");
    command.arg("SET");
    for (name, pem) in files {
        command.arg(name).arg(file(pem));
    }
    command
        .query::<()>(connection)
        .expect("the certificates are read");
    Some(eventually("a port for TLS", || {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.expect("a free port").port();
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("tls-port").arg(port);
        command.query::<()>(connection).is_ok().then_some(port)
    }))
}

#[test]
fn tls_with_an_authority_of_the_operators_own() {
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path());
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let Some(port) = open_tls(&mut connection, folder.path()) else {
        println!("skipped: this Redis was built without TLS");
        return;
    };
    let program = || {
        Backfiller::builder(&redis, &server).env("REDIS_URL", format!("rediss://localhost:{port}"))
    };
    // Whom nobody has named, nobody trusts.
    let stranger = program().start();
    stranger.wait_for_line(|line| {
        line.contains("Redis cannot be used: ") && line.contains("certificate")
    });
    drop(stranger);
    let program = program().env("SSL_CERT_FILE", folder.path().join("ca.pem"));
    backfills(&server, &mut connection, program);
}
