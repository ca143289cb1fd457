//! The ways in which getRepo answers, and mostly fails.

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use super::http::{Next, head, respond};
use super::state::Shared;

const CAR: &str = "application/vnd.ipld.car";
const CHUNK: usize = 16 * 1024;

/// What getRepo does for an account. Where it sends the repository at all, and there is none, it
/// answers RepoNotFound.
#[derive(Clone, Debug)]
pub enum Fault {
    /// No fault: the whole repository with its Content-Length. Of use within [`Fault::Then`].
    Normal,
    /// The whole repository in chunked encoding. No fault either.
    ChunkedOk,
    /// Any answer at all.
    Status {
        code: u16,
        headers: Vec<(String, String)>,
        content_type: String,
        body: Vec<u8>,
    },
    /// An XRPC error: `{"error":…,"message":…}`.
    XrpcError {
        code: u16,
        error: String,
        message: String,
    },
    /// A redirect.
    Redirect { code: u16, location: String },
    /// Announces the whole length, and ends the connection after so many bytes of the body.
    Truncate { after: usize },
    /// Chunked encoding that ends after so many bytes of the body, without the terminal chunk.
    TruncateChunked { after: usize },
    /// Neither length nor chunks: the end of the connection is the end of the body, after all of it
    /// or so many bytes.
    CloseDelimited { after: Option<usize> },
    /// Announces the whole length, and resets the connection (RST) after at most so many bytes of
    /// the body.
    Reset { after: usize },
    /// The whole repository, but only so many bytes at a time, with a pause after each portion.
    Drip { bytes: usize, every: Duration },
    /// The headers and so many bytes of the body; the rest after `release`, or never.
    Hold { after: usize },
    /// The first request gets the first of these, the next one the next, and then there is no fault
    /// any more.
    Then(Vec<Fault>),
}

impl Fault {
    /// A status with an empty body.
    pub fn status(code: u16) -> Self {
        Self::Status {
            code,
            headers: Vec::new(),
            content_type: "text/plain".into(),
            body: Vec::new(),
        }
    }

    /// A status with one header and an empty body, such as 429 with `Retry-After`.
    pub fn status_with_header(code: u16, name: &str, value: &str) -> Self {
        Self::Status {
            code,
            headers: vec![(name.into(), value.into())],
            content_type: "text/plain".into(),
            body: Vec::new(),
        }
    }

    /// An XRPC error.
    pub fn xrpc(code: u16, error: &str, message: &str) -> Self {
        Self::XrpcError {
            code,
            error: error.into(),
            message: message.into(),
        }
    }

    /// A redirect with status 302.
    pub fn redirect(location: impl Into<String>) -> Self {
        Self::Redirect {
            code: 302,
            location: location.into(),
        }
    }
}

/// One getRepo request with all that its answer depends on, as it was when the request came in.
pub struct Order {
    pub did: String,
    pub fault: Fault,
    pub car: Option<Arc<Vec<u8>>>,
    pub releases: u64,
}

impl Order {
    /// Sends the answer.
    pub fn answer(&self, mut stream: &TcpStream, shared: &Shared) -> io::Result<Next> {
        match &self.fault {
            Fault::Status {
                code,
                headers,
                content_type,
                body,
            } => {
                return respond(stream, *code, headers, content_type, body);
            }
            Fault::XrpcError {
                code,
                error,
                message,
            } => return xrpc(stream, *code, error, message),
            Fault::Redirect { code, location } => {
                let headers = [("Location".to_owned(), location.clone())];
                return respond(stream, *code, &headers, "text/plain", b"");
            }
            _ => {}
        }
        let Some(car) = self.car.as_deref() else {
            let message = format!("Could not find repo for DID: {}", self.did);
            return xrpc(stream, 400, "RepoNotFound", &message);
        };
        let part = |after: usize| &car[..after.min(car.len())];
        let length = format!("Content-Length: {}\r\n", car.len());
        let start = |framing: &str| -> io::Result<()> {
            let mut stream = stream;
            stream.write_all(format!("{}{framing}\r\n", head(200, CAR)).as_bytes())
        };
        match self.fault {
            Fault::ChunkedOk => {
                start("Transfer-Encoding: chunked\r\n")?;
                send_chunks(stream, car)?;
                stream.write_all(b"0\r\n\r\n")?;
                Ok(Next::KeepAlive)
            }
            Fault::TruncateChunked { after } => {
                start("Transfer-Encoding: chunked\r\n")?;
                send_chunks(stream, part(after))?;
                Ok(Next::Close)
            }
            Fault::Truncate { after } => {
                start(&length)?;
                stream.write_all(part(after))?;
                Ok(Next::Close)
            }
            Fault::CloseDelimited { after } => {
                start("Connection: close\r\n")?;
                stream.write_all(part(after.unwrap_or(usize::MAX)))?;
                Ok(Next::Close)
            }
            Fault::Reset { after } => {
                start(&length)?;
                stream.write_all(part(after))?;
                reset_on_close(stream)?;
                Ok(Next::Close)
            }
            Fault::Drip { bytes, every } => {
                start(&length)?;
                for portion in car.chunks(bytes.max(1)) {
                    stream.write_all(portion)?;
                    shared.pause(every);
                }
                Ok(Next::KeepAlive)
            }
            Fault::Hold { after } => {
                start(&length)?;
                stream.write_all(part(after))?;
                shared.hold(&self.did, self.releases);
                stream.write_all(&car[part(after).len()..])?;
                Ok(Next::KeepAlive)
            }
            _ => respond(stream, 200, &[], CAR, car),
        }
    }
}

fn xrpc(stream: &TcpStream, code: u16, error: &str, message: &str) -> io::Result<Next> {
    let body = serde_json::json!({ "error": error, "message": message }).to_string();
    respond(
        stream,
        code,
        &[],
        "application/json; charset=utf-8",
        body.as_bytes(),
    )
}

fn send_chunks(mut stream: &TcpStream, body: &[u8]) -> io::Result<()> {
    for chunk in body.chunks(CHUNK) {
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
        stream.write_all(chunk)?;
        stream.write_all(b"\r\n")?;
    }
    Ok(())
}

/// SO_LINGER with zero seconds: closing sends RST and forgets what is not yet sent.
#[allow(unsafe_code, reason = "the standard library has no stable call for it")]
fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the descriptor is open, and the pointer and the length describe a `linger` that
    // outlives the call.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
