//! R1: which keys of the tree name a record; the others are skipped.

use rsky_backfiller::repo::record::{KeyParser, Skip};

#[test]
fn r1_a_key_is_a_collection_and_an_rkey() {
    let longest = "o".repeat(512);
    let mut parser = KeyParser::default();
    for (collection, rkey) in [
        ("app.bsky.feed.post", "3jzfcijpj2z2a"),
        ("com.example.fooBar", "AZaz09.-_~:"),
        ("a.b.c", "..."),
        ("a.b.c", &longest),
    ] {
        let key = format!("{collection}/{rkey}");
        assert_eq!(parser.parse(key.as_bytes()), Ok((collection, rkey)));
    }
    let long = [
        format!("a.b.c/{longest}o"),
        format!("com.{}.c/a", "a".repeat(64)),
        format!("{}.b.c/{longest}", "a.".repeat(300)),
    ];
    let collections = "a.b/self a/self a..c/self .a.b.c/self a.b.c./self a.b.c-d/self a.b.1c/self -a.b.c/self a.b.\"c/self é.b.c/a";
    let rkeys = "a.b.c a.b.c/ a.b.c/a/b a.b.c//a a.b.c/a/ a.b.c/. a.b.c/.. a.b.c/\" a.b.c/\\ a.b.c/é a.b.c/a%20 a.b.c/@ a.b.c/# a.b.c/a+b";
    let spaces = [
        "",
        "a b.c.d/self",
        "a.b.c/a b",
        "a.b.c/a\n",
        "a.b.c\n/a",
        "a.b.c/a\0",
        "\u{feff}a.b.c/a",
    ];
    let words = collections.split(' ').chain(rkeys.split(' '));
    for key in words.chain(spaces).chain(long.iter().map(String::as_str)) {
        for parser in [&mut parser, &mut KeyParser::default()] {
            // What was refused is not remembered as a good collection.
            assert_eq!(parser.parse(key.as_bytes()), Err(Skip::Key), "{key}");
            assert_eq!(parser.parse(key.as_bytes()), Err(Skip::Key), "{key}");
            assert_eq!(parser.parse(b"a.b.c/self"), Ok(("a.b.c", "self")));
        }
    }
    assert_eq!(parser.parse(b"a.b.c/\xff"), Err(Skip::Key));
    assert_eq!(parser.parse(b"a.b.\xc3/self"), Err(Skip::Key));
}

#[test]
fn r1_a_key_without_a_collection_is_none_even_as_the_first() {
    for key in ["/self", "/", "//self", "/a.b.c/a"] {
        assert_eq!(
            KeyParser::default().parse(key.as_bytes()),
            Err(Skip::Key),
            "{key}"
        );
    }
}
