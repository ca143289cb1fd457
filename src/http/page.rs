//! The page of the operator: its files, as they are served.
//!
//! One page without a build step: what is in these files is what the browser gets. It asks for `status.json` while somebody looks,
//! and for nothing else. What strangers chose (DIDs, hosts, error texts) reaches the document only as text; the policy that the
//! server sends with it (`script-src 'self'`, nothing inline) is a second lock. The addresses in the files are relative, so the page
//! also works below a prefix of a proxy. Pinned by `tests/page.rs`, in a real browser.

/// Path, content type and body of each file of the page.
pub const FILES: [(&str, &str, &str); 8] = [
    ("/", "text/html; charset=utf-8", include_str!("page.html")),
    ("/page.css", CSS, include_str!("page.css")),
    ("/page.js", JS, include_str!("page.js")),
    ("/sections.js", JS, include_str!("sections.js")),
    ("/tables.js", JS, include_str!("tables.js")),
    ("/charts.js", JS, include_str!("charts.js")),
    ("/reasons.js", JS, include_str!("reasons.js")),
    ("/format.js", JS, include_str!("format.js")),
];

const CSS: &str = "text/css; charset=utf-8";
/// Browsers take modules of no other type.
const JS: &str = "text/javascript; charset=utf-8";
