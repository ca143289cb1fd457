//! How slow a server may be: a guard in ureq's transport chain.
//!
//! ureq limits each read and the whole, and between the two a server that sends a byte now and then could keep a worker for
//! all of the time that the largest repo may take. So each connection is watched: every [`Limits::bytes`] of an answer must
//! come within [`Limits::time`], or the request fails with [`TooSlow`]. The rules:
//!
//! - Only the time in which we wait for the server counts. What we do between two reads (spilling, waiting for memory or for
//!   Redis) is not held against it; what it sends meanwhile waits in the socket, and costs it nothing.
//! - Counted are the bytes that arrive, above TLS and before chunks and compression are taken off: it is the server's pace, not
//!   how well it compresses. The bytes of a TLS record count when all of it has come.
//! - The time before the first byte of an answer does not count, for it has a limit of its own; each request begins anew, also
//!   on a kept connection. An answer that ends within that time is never too slow, however little it was.
//! - Bodies of errors are watched like those of successes, because neither is known here.
//!
//! The guard is above TLS, and hands its deadline down as the time-out of the read, so a TLS record that comes in bytewise
//! ends in time as well. On a fast body this costs two looks at the clock for each read of a socket: the deadline is then farther
//! than ureq's limit of a single read, which stays what it was, so that ureq does not set it anew at the socket.
//! Pinned by the tests here and by `tests/slow_servers.rs`.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};

/// The least that a server must send in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// So many bytes …
    pub bytes: usize,
    /// … within so much time of waiting.
    pub time: Duration,
}

impl Limits {
    /// 8 KiB/s over a minute: at this pace a repo of usual size (some hundred KiB) still comes in one attempt, and a pause of
    /// half a minute, which is allowed as well, is no offence by itself.
    pub const DEFAULT: Self = Limits {
        bytes: 60 * 8 * 1024,
        time: Duration::from_secs(60),
    };

    /// Whether so many bytes in so long a time are at least the pace that is asked for.
    pub fn allow(&self, bytes: u64, time: Duration) -> bool {
        let pace = self.bytes as f64 / self.time.as_secs_f64();
        bytes as f64 >= pace * time.as_secs_f64()
    }
}

/// Why an answer was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooSlow {
    limits: Limits,
    bytes: usize,
    waited: Duration,
}

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = self.limits.bytes as f64 / self.limits.time.as_secs_f64();
        let (bytes, waited) = (self.bytes, self.waited.as_secs_f64());
        let rate = bytes as f64 / waited;
        write!(
            f,
            "slower than {least:.0} bytes/s: {bytes} bytes in {waited:.1} s, {rate:.0} bytes/s"
        )
    }
}

impl StdError for TooSlow {}

/// The pace of one answer.
#[derive(Debug, Clone, Copy)]
struct Pace {
    limits: Limits,
    /// Whether a byte of the answer has come.
    began: bool,
    /// What came, and how long it was waited for, since the last time that enough had come.
    bytes: usize,
    waited: Duration,
}

impl Pace {
    fn new(limits: Limits) -> Self {
        Pace {
            limits,
            began: false,
            bytes: 0,
            waited: Duration::ZERO,
        }
    }

    /// How long may be waited for the next bytes; `None`: as long as anybody likes.
    fn left(&self) -> Result<Option<Duration>, TooSlow> {
        if !self.began {
            return Ok(None);
        }
        let left = self.limits.time.saturating_sub(self.waited);
        if left.is_zero() {
            return Err(TooSlow {
                limits: self.limits,
                bytes: self.bytes,
                waited: self.waited,
            });
        }
        Ok(Some(left))
    }

    /// So many bytes came, after so long.
    fn came(&mut self, bytes: usize, after: Duration) {
        if self.began {
            self.waited += after;
        }
        self.began |= bytes > 0;
        self.bytes += bytes;
        if self.bytes >= self.limits.bytes {
            self.bytes = 0;
            self.waited = Duration::ZERO;
        }
    }
}

type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// Puts the guard around every connection that the connector before it in the chain makes.
#[derive(Clone)]
pub struct Watch {
    limits: Limits,
    clock: Clock,
}

impl Watch {
    /// A guard with these limits.
    pub fn new(limits: Limits) -> Self {
        Watch {
            limits,
            clock: Arc::new(Instant::now),
        }
    }
}

/// ureq's own connections with the guard around them.
pub fn connector(limits: Limits) -> impl Connector {
    DefaultConnector::default().chain(Watch::new(limits))
}

impl<In: Transport> Connector<In> for Watch {
    type Out = Watched<In>;

    fn connect(
        &self,
        _: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| Watched {
            inner,
            pace: Pace::new(self.limits),
            clock: Arc::clone(&self.clock),
        }))
    }
}

/// A connection with the guard around it.
pub struct Watched<T> {
    inner: T,
    pace: Pace,
    clock: Clock,
}

impl<T: Transport> Transport for Watched<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        // A request: what comes now is its answer.
        self.pace = Pace::new(self.pace.limits);
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, Error> {
        if let Some(left) = self.pace.left().map_err(too_slow)? {
            timeout.after = timeout.after.min(left.into());
        }
        let before = self.inner.buffers().input().len();
        let began = (self.clock)();
        let result = self.inner.await_input(timeout);
        let after = (self.clock)().saturating_duration_since(began);
        let came = self.inner.buffers().input().len().saturating_sub(before);
        self.pace.came(came, after);
        if let Err(Error::Timeout(_)) = result {
            // Either it was our limit, or the error is that of another one.
            self.pace.left().map_err(too_slow)?;
        }
        result
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

fn too_slow(error: TooSlow) -> Error {
    Error::Other(Box::new(error))
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("inner", &self.inner)
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ureq::Timeout;
    use ureq::unversioned::transport::LazyBuffers;

    use super::*;
    use crate::fetch::error::is_unreachable;

    const KIB: usize = 1024;

    /// A server that sends so many bytes after so long, again and again, by a clock that moves only where it is waited for.
    #[derive(Debug)]
    struct Server {
        buffers: LazyBuffers,
        bytes: usize,
        every: Duration,
        now: Arc<Mutex<Instant>>,
        /// The time-outs of its reads.
        allowed: Vec<Duration>,
    }

    impl Transport for Server {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.buffers
        }

        fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
            Ok(())
        }

        fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
            let timeout = timeout.for_read();
            self.allowed.push(*timeout.after);
            *self.now.lock().unwrap() += self.every.min(*timeout.after);
            if self.every >= *timeout.after {
                return Err(Error::Timeout(timeout.reason));
            }
            let _ = self.buffers.input_append_buf();
            self.buffers.input_appended(self.bytes);
            Ok(self.bytes > 0)
        }

        fn is_open(&mut self) -> bool {
            true
        }
    }

    fn watched(bytes: usize, every: Duration) -> Watched<Server> {
        let now = Arc::new(Mutex::new(Instant::now()));
        let clock = Arc::clone(&now);
        Watched {
            inner: Server {
                buffers: LazyBuffers::new(512 * KIB, KIB),
                bytes,
                every,
                now,
                allowed: Vec::new(),
            },
            pace: Pace::new(Limits::DEFAULT),
            clock: Arc::new(move || *clock.lock().unwrap()),
        }
    }

    #[test]
    fn a_pace_is_bytes_in_a_time() {
        let seconds = Duration::from_secs;
        assert!(Limits::DEFAULT.allow(80 << 10, seconds(10)));
        assert!(!Limits::DEFAULT.allow((80 << 10) - 1, seconds(10)));
        assert!(Limits::DEFAULT.allow(0, seconds(0)));
    }

    fn timeout() -> NextTimeout {
        NextTimeout {
            after: Duration::from_secs(600).into(),
            per_read: Some(Duration::from_secs(30).into()),
            reason: Timeout::Global,
            ..NextTimeout::default()
        }
    }

    /// Reads so often, and takes what came; how long that took the server, and how it ended.
    fn read(
        connection: &mut Watched<Server>,
        times: usize,
    ) -> (Duration, Result<bool, Box<dyn StdError>>) {
        let began = *connection.inner.now.lock().unwrap();
        let result = (0..times).try_fold(true, |_, _| {
            let more = connection.await_input(timeout())?;
            let came = connection.buffers().input().len();
            connection.buffers().input_consume(came);
            Ok(more)
        });
        let took = *connection.inner.now.lock().unwrap() - began;
        let result = result.map_err(|error: Error| match error {
            Error::Other(error) => error as Box<dyn StdError>,
            error => Box::new(error) as Box<dyn StdError>,
        });
        (took, result)
    }

    fn is_too_slow(result: &Result<bool, Box<dyn StdError>>) -> bool {
        matches!(result, Err(error) if error.is::<TooSlow>())
    }

    #[test]
    fn what_is_slower_than_the_limit_over_a_minute_is_given_up() {
        // Just below 8 KiB/s, in one-second portions; the first byte is not waited for.
        let mut connection = watched(8 * KIB - 1, Duration::from_secs(1));
        let (took, result) = read(&mut connection, 1000);
        assert!(is_too_slow(&result), "{result:?}");
        assert_eq!(took.as_secs(), 61);
        let text = result.unwrap_err().to_string();
        assert_eq!(
            text,
            "slower than 8192 bytes/s: 491460 bytes in 60.0 s, 8191 bytes/s"
        );
        // Whoever reads on gets the same again, and nothing of the body.
        assert!(is_too_slow(&read(&mut connection, 1).1));
        let error = connection.await_input(timeout()).unwrap_err();
        assert!(is_unreachable(&error, false), "it is the host's fault");
    }

    #[test]
    fn a_byte_now_and_then_is_too_slow() {
        let mut connection = watched(1, Duration::from_secs(29));
        let (took, result) = read(&mut connection, 1000);
        assert!(is_too_slow(&result), "{result:?}");
        assert_eq!(took.as_secs(), 29 + 60, "the read itself ends in time");
    }

    #[test]
    fn what_is_as_fast_as_the_limit_goes_on() {
        let mut connection = watched(8 * KIB, Duration::from_millis(999));
        let (_, result) = read(&mut connection, 10_000);
        assert!(matches!(result, Ok(true)), "{result:?}");
        // As much at once, with pauses that are as long as a read may be.
        let mut connection = watched(30 * 8 * KIB, Duration::from_millis(29_999));
        let (_, result) = read(&mut connection, 1000);
        assert!(matches!(result, Ok(true)), "{result:?}");
    }

    #[test]
    fn a_server_that_was_fast_has_no_credit() {
        let mut connection = watched(64 * KIB, Duration::from_millis(1));
        assert!(read(&mut connection, 10_000).1.is_ok());
        connection.inner.bytes = 1;
        connection.inner.every = Duration::from_secs(10);
        let (took, result) = read(&mut connection, 1000);
        assert!(is_too_slow(&result), "{result:?}");
        assert_eq!(took.as_secs(), 60);
    }

    #[test]
    fn a_small_answer_is_never_too_slow() {
        let mut connection = watched(1, Duration::from_millis(900));
        // The first portion is not waited for, so these are less than a minute.
        let (_, result) = read(&mut connection, 67);
        assert!(matches!(result, Ok(true)), "{result:?}");
        // Its end comes as the last read.
        connection.inner.bytes = 0;
        connection.inner.every = Duration::from_millis(1);
        assert!(matches!(read(&mut connection, 1).1, Ok(false)));
    }

    #[test]
    fn the_time_before_the_first_byte_does_not_count() {
        let mut connection = watched(1, Duration::from_secs(29));
        assert!(read(&mut connection, 1).1.is_ok());
        connection.inner.every = Duration::from_secs(1);
        let (took, result) = read(&mut connection, 1000);
        assert!(is_too_slow(&result), "{result:?}");
        assert_eq!(took.as_secs(), 60);
    }

    #[test]
    fn each_request_on_a_connection_begins_anew() {
        let mut connection = watched(1, Duration::from_secs(20));
        for _ in 0..100 {
            connection.transmit_output(1, timeout()).unwrap();
            let (_, result) = read(&mut connection, 3);
            assert!(matches!(result, Ok(true)), "{result:?}");
        }
        assert!(is_too_slow(&read(&mut connection, 3).1));
    }

    #[test]
    fn our_own_slowness_is_not_the_servers() {
        let mut connection = watched(KIB, Duration::from_millis(1));
        for _ in 0..1000 {
            assert!(read(&mut connection, 1).1.is_ok());
            *connection.inner.now.lock().unwrap() += Duration::from_secs(3600);
        }
    }

    #[test]
    fn silence_is_the_limit_of_a_single_read() {
        let mut connection = watched(KIB, Duration::from_millis(1));
        assert!(read(&mut connection, 1).1.is_ok());
        connection.inner.every = Duration::MAX;
        let (took, result) = read(&mut connection, 1);
        assert_eq!(took.as_secs(), 30);
        let error = result.unwrap_err();
        let error = error.downcast_ref::<Error>();
        assert!(
            matches!(error, Some(Error::Timeout(Timeout::PerRead))),
            "{error:?}"
        );
    }

    #[test]
    fn a_fast_body_leaves_the_time_out_of_its_reads_alone() {
        let mut connection = watched(64 * KIB, Duration::from_millis(10));
        assert!(read(&mut connection, 10_000).1.is_ok());
        // Each other value would be a call to the system for each read.
        let allowed = &connection.inner.allowed;
        assert!(allowed.iter().all(|t| *t == Duration::from_secs(30)));
    }
}
