//! A request, as far as it matters here: method, path and the host that the client believes to speak with. It is read by httparse.

use httparse::{EMPTY_HEADER, Error, Status};

use super::answer::Answer;

/// Bytes of a request at most, without a body: browsers send less than a tenth of it.
pub const LARGEST: usize = 8 << 10;
/// Headers at most.
const MOST_HEADERS: usize = 64;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// As it was sent.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The header `Host`; `None`: an old client that sends none.
    pub host: Option<String>,
}

/// Reads what has come so far. `None`: more is to come. What is behind the empty line is not looked at.
///
/// # Errors
/// The answer to what is no request.
pub fn parse(bytes: &[u8]) -> Result<Option<Request>, Answer> {
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) if bytes.len() < LARGEST => return Ok(None),
        Ok(Status::Partial) | Err(Error::TooManyHeaders) => {
            return Err(Answer::line(431, "the request is too large"));
        }
        Err(e) => return Err(Answer::line(400, &format!("this is no HTTP request: {e}"))),
    }
    let bad = |text| Err(Answer::line(400, text));
    let target = request.path.unwrap_or_default();
    if !target.starts_with('/') {
        return bad("the request is for no path of this server");
    }
    let mut hosts = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"));
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return bad("the request names two hosts"),
        (None, None) if request.version == Some(1) => return bad("the request names no host"),
        (None, None) => None,
        (Some(host), None) => match str::from_utf8(host.value) {
            Ok(host) => Some(host.trim().to_owned()),
            Err(_) => return bad("the request names no host that can be read"),
        },
    };
    Ok(Some(Request {
        method: request.method.unwrap_or_default().to_owned(),
        path: target.split('?').next().unwrap_or_default().to_owned(),
        host,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_when_it_is_whole_and_refused_when_it_is_none() {
        let whole = b"GET /metrics?a=/b HTTP/1.1\r\nhOsT: localhost:9\r\nAccept: */*\r\n\r\nmore";
        let request = Request {
            method: "GET".to_owned(),
            path: "/metrics".to_owned(),
            host: Some("localhost:9".to_owned()),
        };
        assert_eq!(parse(whole), Ok(Some(request)));
        for end in 0..whole.len() - "more".len() {
            assert_eq!(parse(&whole[..end]), Ok(None), "{end}");
        }
        let old = parse(b"HEAD / HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert_eq!((old.method.as_str(), old.host), ("HEAD", None));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        let long = format!("GET /{}", "a".repeat(LARGEST));
        let refused: [(&[u8], u16); 7] = [
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", 400),
            (b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00", 400),
            (many.as_bytes(), 431),
            (long.as_bytes(), 431),
        ];
        for (bytes, status) in refused {
            let answer = parse(bytes).unwrap_err();
            assert_eq!(answer.status, status, "{}", bytes.escape_ascii());
        }
    }
}
