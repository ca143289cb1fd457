//! The contents of realistic records, kind by kind.

use super::cbor::Value;
use super::cid::Cid;
use super::did::did_plc;
use super::random::Random;
use super::time::{tid, timestamp};

/// A blob of the given type with a random address.
pub fn blob(random: &mut Random, mime_type: &str) -> Value {
    Value::map([
        ("$type", Value::text("blob")),
        ("ref", Value::Link(Cid::raw(&random.bits().to_be_bytes()))),
        ("mimeType", Value::text(mime_type)),
        ("size", Value::Int((20_000 + random.below(950_000)).into())),
    ])
}

const WORDS: &[&str] = &[
    "the",
    "sky",
    "is",
    "quiet",
    "today",
    "and",
    "nobody",
    "knows",
    "why",
    "morning",
    "coffee",
    "again",
    "über",
    "schön",
    "Straße",
    "coração",
    "não",
    "também",
    "niño",
    "été",
    "déjà",
    "привет",
    "небо",
    "空",
    "今日は",
    "良い天気",
    "하늘",
    "مرحبا",
    "שלום",
    "नमस्ते",
    "🦋",
    "👩‍💻",
    "🇧🇷",
    "“quoted”",
    "\"plain\"",
    "—",
    "1,000",
    "back\\slash",
    "e\u{301}",
];

/// A post: text, and now and then facets, a reply, or an image.
pub fn post(random: &mut Random, micros: u64) -> Value {
    let mut text = String::new();
    for _ in 0..9 + random.below(44) {
        text += random.pick(WORDS);
        text.push(if random.chance(5) { '\n' } else { ' ' });
    }
    let mut facets = Vec::new();
    if random.chance(15) {
        let did = Value::text(did_of(random));
        facets.push(facet(
            &mut text,
            "@someone.example.com",
            "mention",
            ("did", did),
        ));
    }
    if random.chance(15) {
        let uri = Value::text(format!(
            "https://example.com/articles/{}",
            random.below(1_000_000)
        ));
        facets.push(facet(
            &mut text,
            "example.com/articles…",
            "link",
            ("uri", uri),
        ));
    }
    if random.chance(10) {
        facets.push(facet(
            &mut text,
            "#蝶々",
            "tag",
            ("tag", Value::text("蝶々")),
        ));
    }
    let mut fields = vec![
        ("$type", Value::text("app.bsky.feed.post")),
        ("text", Value::text(text)),
        (
            "langs",
            Value::List(vec![Value::text(random.pick(&["en", "pt", "ja", "de"]))]),
        ),
        ("createdAt", Value::text(timestamp(micros))),
    ];
    if !facets.is_empty() {
        fields.push(("facets", Value::List(facets)));
    }
    if random.chance(50) {
        let (root, parent) = (strong_ref(random), strong_ref(random));
        fields.push(("reply", Value::map([("root", root), ("parent", parent)])));
    }
    if random.chance(30) {
        let size = Value::map([("width", Value::Int(2000)), ("height", Value::Int(1500))]);
        let image = Value::map([
            ("alt", Value::text("Ein Bild: 🌅 over the sea")),
            ("image", blob(random, "image/jpeg")),
            ("aspectRatio", size),
        ]);
        let images = Value::List(vec![image]);
        fields.push((
            "embed",
            Value::map([
                ("$type", Value::text("app.bsky.embed.images")),
                ("images", images),
            ]),
        ));
    }
    Value::map(fields)
}

/// Appends `shown` to the text, with the facet that marks its bytes.
fn facet(text: &mut String, shown: &str, kind: &str, feature: (&str, Value)) -> Value {
    let start = text.len();
    text.push_str(shown);
    let place = [
        ("byteStart", Value::Int(start as i128)),
        ("byteEnd", Value::Int(text.len() as i128)),
    ];
    text.push(' ');
    let kind = (
        "$type",
        Value::text(format!("app.bsky.richtext.facet#{kind}")),
    );
    Value::map([
        ("index", Value::map(place)),
        ("features", Value::List(vec![Value::map([kind, feature])])),
    ])
}

/// A like or a repost.
pub fn subject_record(kind: &str, random: &mut Random, micros: u64) -> Value {
    let subject = strong_ref(random);
    let created = Value::text(timestamp(micros));
    Value::map([
        ("$type", Value::text(kind)),
        ("subject", subject),
        ("createdAt", created),
    ])
}

/// A follow or a block.
pub fn account_record(kind: &str, random: &mut Random, micros: u64) -> Value {
    let subject = Value::text(did_of(random));
    let created = Value::text(timestamp(micros));
    Value::map([
        ("$type", Value::text(kind)),
        ("subject", subject),
        ("createdAt", created),
    ])
}

/// A profile with an avatar.
pub fn profile(random: &mut Random, micros: u64) -> Value {
    Value::map([
        ("$type", Value::text("app.bsky.actor.profile")),
        ("displayName", Value::text("Nobody in particular 🦀")),
        (
            "description",
            Value::text("Schreibt über alles.\nWrites about anything. なんでも書きます。"),
        ),
        ("avatar", blob(random, "image/png")),
        ("createdAt", Value::text(timestamp(micros))),
    ])
}

fn strong_ref(random: &mut Random) -> Value {
    let rkey = tid(
        1_683_000_000_000_000 + random.below(1 << 45),
        random.below(1024) as u16,
    );
    let uri = Value::text(format!("at://{}/app.bsky.feed.post/{rkey}", did_of(random)));
    let cid = Value::text(Cid::dag_cbor(&random.bits().to_be_bytes()).to_string());
    Value::map([("cid", cid), ("uri", uri)])
}

fn did_of(random: &mut Random) -> String {
    did_plc(random.bits())
}
