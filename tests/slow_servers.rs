//! Servers that are silent or too slow in the midst of a body: plain, over TLS, compressed; and the limits as the program has
//! them. The shortened limits show in a second what takes a minute otherwise.

mod support;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rsky_backfiller::fetch::transport::{Limits, TooSlow, connector};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use support::fixture_server::Fault;
use support::hostile::outcomes;
use support::hostile::stage::Stage;
use support::wait::within;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::{Agent, Timeout};

/// 100 bytes a second, over half a second.
const LIMITS: Limits = Limits {
    bytes: 50,
    time: Duration::from_millis(500),
};
/// How long a read may be silent. Where silence is what is tested, it is far below [`LIMITS`], else far above.
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(30);
/// What no test takes that ends by the limit it is about.
const BOUND: Duration = Duration::from_secs(20);

/// A client's connection, plain or over TLS.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// What a server does with a connection after it has read a request.
type Answer = fn(&mut dyn Stream) -> io::Result<()>;

/// A server, and whether it has TLS. It ends with the test process, for it waits for a next client.
struct Server {
    address: SocketAddr,
    certificate: Option<Certificate<'static>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    fn start(tls: bool, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (config, certificate) = match tls {
            true => {
                let (config, certificate) = certified();
                (Some(config), Some(certificate))
            }
            false => (None, None),
        };
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                let stream = stream.expect("a client");
                stream.set_nodelay(true).expect("an option of a socket");
                let config = config.clone();
                thread::spawn(move || match config {
                    None => serve(stream, answer),
                    Some(config) => {
                        let server = ServerConnection::new(config).expect("a configuration");
                        serve(StreamOwned::new(server, stream), answer);
                    }
                });
            }
        });
        Self {
            address,
            certificate,
            connections,
        }
    }

    fn url(&self) -> String {
        let scheme = match self.certificate {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://localhost:{}/", self.address.port())
    }

    /// An agent that trusts it, with these limits.
    fn agent(&self, limits: Limits, silence: Duration) -> Agent {
        let roots = RootCerts::Specific(Arc::new(self.certificate.iter().cloned().collect()));
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(silence))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        Agent::with_parts(config, connector(limits), DefaultResolver::default())
    }
}

fn certified() -> (Arc<ServerConfig>, Certificate<'static>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .expect("a certificate of this key");
    let certificate = Certificate::from_der(cert.der()).to_owned();
    (Arc::new(config), certificate)
}

/// Answers the requests of a connection until the client has had enough.
fn serve(stream: impl Stream, answer: Answer) {
    let mut reader = BufReader::with_capacity(1, stream);
    loop {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if !matches!(reader.read_line(&mut line), Ok(1..)) {
                return;
            }
        }
        if answer(reader.get_mut()).is_err() {
            return;
        }
    }
}

fn send(stream: &mut dyn Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}

/// A head, and the beginning of the body, so that its pace alone is left.
fn begin(stream: &mut dyn Stream, head: &str) -> io::Result<()> {
    send(stream, format!("HTTP/1.1 {head}\r\n\r\n").as_bytes())
}

fn drip(stream: &mut dyn Stream, bytes: &[u8], every: Duration) -> io::Result<()> {
    for byte in bytes {
        send(stream, &[*byte])?;
        thread::sleep(every);
    }
    Ok(())
}

const SLOWLY: Duration = Duration::from_millis(40);

fn plain(stream: &mut dyn Stream) -> io::Result<()> {
    begin(stream, "200 OK\r\nContent-Length: 100000")?;
    drip(stream, &[7; 100_000], SLOWLY)
}

fn in_chunks(stream: &mut dyn Stream) -> io::Result<()> {
    begin(stream, "200 OK\r\nTransfer-Encoding: chunked")?;
    drip(stream, "1\r\nx\r\n".repeat(10_000).as_bytes(), SLOWLY)
}

fn of_an_error(stream: &mut dyn Stream) -> io::Result<()> {
    begin(stream, "404 Not Found\r\nConnection: close")?;
    drip(stream, &[7; 100_000], SLOWLY)
}

/// Very much when it is unpacked, and slow as it comes.
fn compressed(stream: &mut dyn Stream) -> io::Result<()> {
    begin(
        stream,
        "200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 100000",
    )?;
    send(stream, &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
    // Stored blocks without anything in them.
    drip(stream, &[0, 0, 0, 0xff, 0xff].repeat(10_000), SLOWLY)
}

fn silent(stream: &mut dyn Stream) -> io::Result<()> {
    begin(stream, "200 OK\r\nContent-Length: 100000")?;
    send(stream, &[7; 1000])?;
    until_the_client_goes(stream)
}

fn silent_compressed(stream: &mut dyn Stream) -> io::Result<()> {
    begin(
        stream,
        "200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 100000",
    )?;
    send(stream, &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
    until_the_client_goes(stream)
}

fn until_the_client_goes(stream: &mut dyn Stream) -> io::Result<()> {
    io::copy(stream, &mut io::sink()).map(drop)
}

/// A small answer at a pace that would be too slow for a larger one.
fn small(stream: &mut dyn Stream) -> io::Result<()> {
    begin(stream, "200 OK\r\nContent-Length: 5")?;
    drip(stream, b"hello", SLOWLY)
}

fn large(stream: &mut dyn Stream) -> io::Result<()> {
    begin(stream, "200 OK\r\nContent-Length: 1000000")?;
    send(stream, &[7; 1_000_000])
}

/// Asks and reads all of the body, with a pause before each read; returns how that ended, and when.
fn ask(agent: &Agent, url: &str, pause: Duration) -> (Result<usize, ureq::Error>, Duration) {
    let began = Instant::now();
    let read = || -> Result<usize, ureq::Error> {
        let mut body = agent.get(url).call()?.into_body().into_reader();
        let mut buffer = vec![0; 100_000];
        let mut bytes = 0;
        loop {
            thread::sleep(pause);
            match body.read(&mut buffer)? {
                0 => return Ok(bytes),
                count => bytes += count,
            }
        }
    };
    (read(), began.elapsed())
}

#[test]
fn a_body_that_is_too_slow_is_given_up() {
    let answers: [(&str, Answer); 4] = [
        ("plain", plain),
        ("in chunks", in_chunks),
        ("of an error", of_an_error),
        ("compressed", compressed),
    ];
    for tls in [false, true] {
        for (name, answer) in answers {
            let server = Server::start(tls, answer);
            let agent = server.agent(LIMITS, LONG);
            let (result, took) = ask(&agent, &server.url(), Duration::ZERO);
            let Err(ureq::Error::Other(error)) = result else {
                panic!("{name}, TLS {tls}: {result:?}");
            };
            assert!(error.is::<TooSlow>(), "{name}, TLS {tls}: {error}");
            let text = error.to_string();
            assert!(text.starts_with("slower than 100 bytes/s: "), "{text}");
            assert!(took >= LIMITS.time, "{name}, TLS {tls}: {took:?}");
            assert!(took < BOUND, "{name}, TLS {tls}: {took:?}");
        }
    }
}

#[test]
fn a_record_of_tls_that_comes_bytewise_is_given_up_as_well() {
    /// Sends what TLS makes of a body of one record, byte by byte.
    struct Bytewise(TcpStream);
    impl Read for Bytewise {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Write for Bytewise {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Handshake and head are small.
            if bytes.len() < 8_000 {
                return self.0.write(bytes);
            }
            drip(&mut self.0, bytes, Duration::from_millis(5))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (config, certificate) = certified();
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let connection = ServerConnection::new(config).expect("a configuration");
        serve(StreamOwned::new(connection, Bytewise(stream)), |stream| {
            begin(stream, "200 OK\r\nContent-Length: 100000")?;
            send(stream, &[7; 100_000])
        });
    });
    let server = Server {
        address,
        certificate: Some(certificate),
        connections: Arc::default(),
    };
    // No byte of the body comes out of the first record in time, though 200 a second come in.
    let (result, took) = ask(&server.agent(LIMITS, LONG), &server.url(), Duration::ZERO);
    assert!(
        matches!(&result, Err(ureq::Error::Other(error)) if error.is::<TooSlow>()),
        "{result:?}"
    );
    assert!(took < BOUND, "{took:?}");
}

#[test]
fn a_body_that_falls_silent_is_given_up() {
    let generous = Limits {
        time: Duration::from_secs(3600),
        ..LIMITS
    };
    let answers: [(&str, Answer); 2] = [("plain", silent), ("compressed", silent_compressed)];
    for tls in [false, true] {
        for (name, answer) in answers {
            let server = Server::start(tls, answer);
            let agent = server.agent(generous, SHORT);
            let (result, took) = ask(&agent, &server.url(), Duration::ZERO);
            assert!(
                matches!(result, Err(ureq::Error::Timeout(Timeout::PerRead))),
                "{name}, TLS {tls}: {result:?}"
            );
            assert!(took >= SHORT && took < BOUND, "{name}, TLS {tls}: {took:?}");
        }
    }
}

#[test]
fn a_small_body_may_be_slow_and_the_next_one_on_its_connection_as_well() {
    for tls in [false, true] {
        let server = Server::start(tls, small);
        // Far more than all of them have; and together they take longer than the limit.
        let limits = Limits {
            bytes: 10_000,
            ..LIMITS
        };
        let agent = server.agent(limits, LONG);
        for _ in 0..5 {
            let (result, _) = ask(&agent, &server.url(), Duration::ZERO);
            assert!(matches!(result, Ok(5)), "TLS {tls}: {result:?}");
        }
        let connections = server.connections.load(Ordering::Relaxed);
        assert_eq!(connections, 1, "TLS {tls}: the connection is kept");
    }
}

#[test]
fn our_own_pauses_are_not_held_against_the_server() {
    for tls in [false, true] {
        let server = Server::start(tls, large);
        // Much would have to come between two pauses if they counted.
        let limits = Limits {
            bytes: 10_000_000,
            time: Duration::from_millis(500),
        };
        let agent = server.agent(limits, LONG);
        let (result, took) = ask(&agent, &server.url(), Duration::from_millis(100));
        assert!(matches!(result, Ok(1_000_000)), "TLS {tls}: {result:?}");
        assert!(took > limits.time, "TLS {tls}: {took:?}");
    }
}

/// The limits of the program itself; this takes a minute. A host that has taken so much of five workers' time gets no more of it.
#[test]
fn the_program_gives_a_slow_body_a_minute_and_its_host_five_of_them() {
    const BODIES: usize = 5;
    let mut stage = Stage::new();
    let drip = Fault::Drip {
        bytes: 1,
        every: Duration::from_millis(500),
    };
    let repos = [(); BODIES].map(|()| stage.faulty(drip.clone()));
    let program = stage.permitted();
    let program = program.env("BACKFILLER_CONCURRENCY", BODIES.to_string());
    let backfiller = program.start();
    let began = Instant::now();
    let ended = within(Duration::from_secs(90), || {
        let ended = outcomes::so_far(&backfiller);
        (ended.len() == BODIES).then_some(ended)
    });
    let Some(ended) = ended else {
        panic!("it goes on after {:?}", began.elapsed());
    };
    for repo in &repos {
        let outcome = outcomes::of(&ended, &repo.did);
        assert_eq!(outcome.how, "network", "{}", outcome.line);
        let said = outcome.line.contains("slower than 8192 bytes/s: ");
        assert!(said, "{}", outcome.line);
        assert!(outcome.number("ms") >= 59_000, "{}", outcome.line);
        assert_eq!(stage.server.repo_requests(&repo.did), 1);
    }
    // Two more are there at the same time, and only that of another host is done.
    let waiting = stage.faulty(drip);
    let (other, server) = stage.faulty_apart(Fault::Normal);
    backfiller.wait_for_line(|line| line.contains("done did=") && line.contains(&other.did));
    assert_eq!(server.repo_requests(&other.did), 1);
    assert_eq!(stage.server.repo_requests(&waiting.did), 0);
}

/// The time for the whole is the operator's; but a host that has sent next to nothing in it is as good as gone.
#[test]
fn a_host_that_uses_the_whole_time_for_next_to_nothing_gets_no_more_of_it() {
    const BODIES: usize = 5;
    let mut stage = Stage::new();
    let drip = Fault::Drip {
        bytes: 1,
        every: Duration::from_millis(100),
    };
    let repos = [(); BODIES].map(|()| stage.faulty(drip.clone()));
    let program = stage.permitted().env("BACKFILLER_HTTP_TIMEOUT_SECS", "2");
    let backfiller = program.env("BACKFILLER_CONCURRENCY", "8").start();
    let ended = outcomes::wait_for(&backfiller, BODIES);
    for repo in &repos {
        let outcome = outcomes::of(&ended, &repo.did);
        assert_eq!(outcome.how, "network", "{}", outcome.line);
        assert!(outcome.line.contains("timeout: global"), "{}", outcome.line);
    }
    let waiting = stage.faulty(drip);
    let (other, _server) = stage.faulty_apart(Fault::Normal);
    backfiller.wait_for_line(|line| line.contains("done did=") && line.contains(&other.did));
    assert_eq!(stage.server.repo_requests(&waiting.did), 0);
}
