//! An answer: status, headers and body. Every answer ends its connection, is never kept by anybody, and is of the type that it says.

use std::borrow::Cow;
use std::time::SystemTime;

/// What the page may do: run its own files and ask its own server, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
const TEXT: &str = "text/plain; charset=utf-8";

/// A body, which may be one of the program's own files.
pub type Body = Cow<'static, [u8]>;

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    kind: &'static str,
    is_page: bool,
    /// What comes behind the headers.
    pub body: Body,
}

impl Answer {
    /// 200 with this type and text.
    pub fn ok(kind: &'static str, body: String) -> Self {
        Answer {
            status: 200,
            kind,
            is_page: false,
            body: Cow::Owned(body.into_bytes()),
        }
    }

    /// A file of the page.
    pub fn file(kind: &'static str, body: &'static str) -> Self {
        Answer {
            status: 200,
            kind,
            is_page: true,
            body: Cow::Borrowed(body.as_bytes()),
        }
    }

    /// A line of text.
    pub fn line(status: u16, text: &str) -> Self {
        Answer {
            status,
            kind: TEXT,
            is_page: false,
            body: Cow::Owned(format!("{text}\n").into_bytes()),
        }
    }

    /// The status line and the headers, with the empty line behind them.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n",
            self.status,
            phrase(self.status),
            httpdate::fmt_http_date(SystemTime::now()),
            self.kind,
            self.body.len(),
        );
        if self.is_page {
            head += &format!("Content-Security-Policy: {POLICY}\r\n");
        }
        if self.status == 405 {
            head += "Allow: GET, HEAD\r\n";
        }
        head += "\r\n";
        head.into_bytes()
    }
}

const fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}
