//! A connection to Redis over TCP or a Unix socket, with a reader of replies of its own.
//!
//! Two replies come for each record that is written, and the parser of the redis crate, made for all that Redis can say, takes a
//! seventh of the whole way of a record for them. This one reads RESP 2 (redis.io/docs/latest/develop/reference/protocol-spec)
//! into the same [`Value`]s. Connections over TLS are left to the crate. Pinned by `tests/redis_urls.rs` and the tests below, which
//! compare both.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use redis::io::tcp::socket2::{SockRef, TcpKeepalive};
use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, RedisResult, Value};

use super::{CONNECT_TIMEOUT, KEEPALIVE};
use crate::redact::without_secrets;

/// Bytes that are read at a time: the replies to a chunk.
const BUFFER: usize = 32 << 10;
/// Deepest nesting of arrays that is read; no reply that is asked for here has more than four levels.
const MAX_DEPTH: usize = 16;
/// Longest line in bytes; an error's text is the longest.
const MAX_LINE: u64 = 64 << 10;
/// How much memory is taken on the word of a length alone; replies that are longer grow as they come.
const TRUSTED: usize = 64 << 10;

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection.
pub struct Plain {
    input: BufReader<Socket>,
    line: Vec<u8>,
}

impl Plain {
    /// Connects and authenticates; `None` where the address asks for TLS.
    ///
    /// # Errors
    /// Of the way, or of Redis.
    pub fn connect(info: &ConnectionInfo, reply_timeout: Duration) -> RedisResult<Option<Self>> {
        let socket = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Socket::Tcp(connect_tcp(host, *port)?),
            ConnectionAddr::Unix(path) => Socket::Unix(UnixStream::connect(path)?),
            _ => return Ok(None),
        };
        socket.set_timeouts(CONNECT_TIMEOUT)?;
        let mut plain = Plain {
            input: BufReader::with_capacity(BUFFER, socket),
            line: Vec::new(),
        };
        plain.authenticate(info)?;
        plain.input.get_ref().set_timeouts(reply_timeout)?;
        Ok(Some(plain))
    }

    fn authenticate(&mut self, info: &ConnectionInfo) -> RedisResult<()> {
        let settings = info.redis_settings();
        let Some(password) = settings.password() else {
            return Ok(());
        };
        let mut command = redis::cmd("AUTH");
        command.arg(settings.username()).arg(password);
        self.send(&command.get_packed_command())?;
        self.receive()?
            .extract_error()
            .map(drop)
            .map_err(|e| match super::passes(&e) {
                true => e,
                false => {
                    let said = without_secrets(&e.to_string(), &[password]);
                    let text = "authentication was refused";
                    (ErrorKind::AuthenticationFailed, text, said).into()
                }
            })
    }

    /// Sends commands in Redis's protocol.
    ///
    /// # Errors
    /// Of the way.
    pub fn send(&mut self, commands: &[u8]) -> RedisResult<()> {
        Ok(self.input.get_mut().write_all(commands)?)
    }

    /// Reads the reply to a command of a transaction: nothing, or what Redis says instead of queuing it. There is one for each
    /// record, and nearly all are the same.
    ///
    /// # Errors
    /// Of the way.
    pub fn receive_queued(&mut self) -> RedisResult<Option<Value>> {
        if self.input.buffer().starts_with(QUEUED) {
            self.input.consume(QUEUED.len());
            return Ok(None);
        }
        self.receive().map(Some)
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// Of the way. What Redis refuses is a [`Value::ServerError`].
    pub fn receive(&mut self) -> RedisResult<Value> {
        value(&mut self.input, &mut self.line, 0)
    }
}

/// The reply to a command of a transaction before EXEC.
const QUEUED: &[u8] = b"+QUEUED\r\n";

fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

impl Socket {
    fn set_timeouts(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))
            }
            Socket::Unix(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn value(input: &mut impl BufRead, line: &mut Vec<u8>, depth: usize) -> RedisResult<Value> {
    line.clear();
    input.by_ref().take(MAX_LINE).read_until(b'\n', line)?;
    let Some((&kind, rest)) = line.split_first() else {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    };
    let Some(text) = rest.strip_suffix(b"\r\n") else {
        return Err(match line.len() as u64 {
            MAX_LINE => broken("without an end"),
            _ => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
        });
    };
    Ok(match kind {
        b'+' if text == b"OK" => Value::Okay,
        b'+' => Value::SimpleString(String::from_utf8_lossy(text).into_owned()),
        // An error's code and text are taken apart as the redis crate does it.
        b'-' => redis::parse_redis_value(line)?,
        b':' => Value::Int(number(text)?),
        b'$' => match usize::try_from(number(text)?) {
            Ok(length) => Value::BulkString(bulk(input, length)?),
            Err(_) => Value::Nil,
        },
        b'*' => match usize::try_from(number(text)?) {
            Ok(_) if depth == MAX_DEPTH => return Err(broken("nested too deep")),
            Ok(count) => {
                let mut values = Vec::with_capacity(count.min(TRUSTED / size_of::<Value>()));
                for _ in 0..count {
                    values.push(value(input, line, depth + 1)?);
                }
                Value::Array(values)
            }
            Err(_) => Value::Nil,
        },
        _ => return Err(broken("of an unknown kind")),
    })
}

fn bulk(input: &mut impl BufRead, length: usize) -> RedisResult<Vec<u8>> {
    // Most are short, and lie in the buffer as a whole.
    let buffered = match input.fill_buf() {
        Ok(buffered) => buffered,
        Err(e) if e.kind() == io::ErrorKind::Interrupted => &[],
        Err(e) => return Err(e.into()),
    };
    if let Some(bytes) = buffered.get(..length)
        && buffered.get(length..length + 2) == Some(b"\r\n")
    {
        let bytes = bytes.to_vec();
        input.consume(length + 2);
        return Ok(bytes);
    }
    let mut bytes = Vec::with_capacity((length + 2).min(TRUSTED));
    input.take(length as u64 + 2).read_to_end(&mut bytes)?;
    if bytes.len() != length + 2 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    if !bytes.ends_with(b"\r\n") {
        return Err(broken("longer than it says"));
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn number(text: &[u8]) -> RedisResult<i64> {
    let text = std::str::from_utf8(text).ok();
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| broken("without its number"))
}

fn broken(what: &str) -> redis::RedisError {
    (
        ErrorKind::Parse,
        "what answers is no Redis",
        format!("a reply {what}"),
    )
        .into()
}

#[cfg(test)]
mod tests {
    use super::super::passes;
    use super::*;

    fn read(mut bytes: &[u8], capacity: usize) -> RedisResult<Value> {
        let mut input = BufReader::with_capacity(capacity, &mut bytes);
        value(&mut input, &mut Vec::new(), 0)
    }

    #[test]
    fn replies_are_read_as_the_redis_crate_reads_them() {
        let replies: [&[u8]; 16] = [
            b"+OK\r\n",
            b"+QUEUED\r\n",
            b"+\r\n",
            b":0\r\n",
            b":-9223372036854775808\r\n",
            b"$0\r\n\r\n",
            b"$-1\r\n",
            b"$11\r\nab\r\ncd\r\n\r\nx\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*2\r\n$15\r\n1700000000000-0\r\n:1\r\n",
            b"*3\r\n*1\r\n*2\r\n+a\r\n$-1\r\n:5\r\n-ERR inside\r\n",
            b"-ERR unknown command\r\n",
            b"-WRONGTYPE Operation against a key\r\n",
            b"-EXECABORT Transaction discarded because of previous errors.\r\n",
            b"-LOADING\r\n",
        ];
        for reply in replies {
            let theirs = redis::parse_redis_value(reply);
            for capacity in [1, 2, 7, 1000] {
                let ours = read(reply, capacity);
                let shown = String::from_utf8_lossy(reply);
                assert_eq!(ours.as_ref().ok(), theirs.as_ref().ok(), "{shown}");
                assert!(ours.is_ok(), "{shown}");
            }
        }
    }

    #[test]
    fn a_reply_that_is_cut_passes_and_what_is_none_does_not() {
        let cut: [&[u8]; 8] = [
            b"",
            b"+OK",
            b"+OK\n",
            b"$3\r\nab",
            b"$9223372036854775807\r\nab",
            b"*2\r\n:1\r\n",
            b"*9223372036854775807\r\n:1\r\n",
            b"-ERR",
        ];
        for bytes in cut {
            let error = read(bytes, 64).expect_err("no reply");
            assert!(error.is_io_error() && passes(&error), "{error}");
        }
        let deep = b"*1\r\n".repeat(MAX_DEPTH + 1);
        let endless = vec![b'+'; MAX_LINE as usize + 1];
        let none: [&[u8]; 6] = [
            b":\r\n",
            b":1x\r\n",
            b"$3\r\nabcd\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            &deep,
            &endless,
        ];
        for bytes in none {
            let error = read(bytes, 64).expect_err("no reply");
            assert!(!passes(&error), "{error}");
        }
    }

    /// Is interrupted before each read.
    struct Interrupted<'a>(&'a [u8], bool);

    impl Read for Interrupted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.0.read(buffer)
        }
    }

    #[test]
    fn a_signal_costs_no_reply() {
        for capacity in [1, 4, 1000] {
            let source = Interrupted(b"*2\r\n$3\r\nabc\r\n:1\r\n", false);
            let mut input = BufReader::with_capacity(capacity, source);
            let reply = value(&mut input, &mut Vec::new(), 0).expect("a reply");
            let expected = [Value::BulkString(b"abc".to_vec()), Value::Int(1)];
            assert_eq!(reply, Value::Array(expected.to_vec()));
        }
    }
}
