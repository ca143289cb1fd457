//! The log: one line for each thing that is said, for people (`text`) or for programs (`json`), and never more than one line.
//!
//! A line has words and fields: `log::info!(did = did, bytes = 7; "done")` is `done did=… bytes=7` for people, with the fields in
//! the order given, and an object with the same fields for programs, behind `time`, `level`, `thread` and `message`. Numbers are
//! numbers there. Two keys are special, because for people a sentence reads better than a table:
//!
//! - `why` is a sentence behind the fields: `abandoned did=…: its entry was deleted`. Where there are no words, it is the message.
//! - A key that begins with `~` is for programs only (and without that sign): its value stands in the words already.
//!
//! DIDs, hosts, record keys and error texts come from strangers. In either form what could end a line or move a terminal's cursor
//! is escaped; for people no field but the last one, `error`, has a blank, so that a value cannot pass for another field; objects are
//! made by serde_json. A panic's own message is an object as well, where objects are asked for. Nothing is said for each record: a
//! line costs what it costs only where it is written. Pinned by `tests/logs.rs`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::thread;
use std::time::SystemTime;

use env_logger::WriteStyle;
use log::kv::{self, Key, Source, Value, VisitSource, VisitValue};
use log::{Level, Log, Metadata, Record};
use serde_json::{Map, Value as Json};

use crate::error::panic_text;
use crate::event::timestamp;

/// A field of a line: its key and its value.
pub type Field = (&'static str, Json);

/// The sentence behind the fields.
const WHY: &str = "why";
/// How the keys begin that are for programs only.
const UNSHOWN: char = '~';
/// The one field that may have blanks; it is the last one.
const FREE: &str = "error";

/// For whom the lines are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// People.
    #[default]
    Text,
    /// Programs: one JSON object a line.
    Json,
}

impl Format {
    /// The format of this name, `text` or `json`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "text" => Some(Format::Text),
            "json" => Some(Format::Json),
            _ => None,
        }
    }
}

/// Sends the log of this process to standard error, as far as the filter (in env_logger's syntax) lets it pass.
pub fn to_stderr(filter: &str, format: Format) {
    builder(filter, format).init();
}

/// The same, where something is drawn on standard error too: `apart` writes what it is given apart from that.
pub fn to_stderr_beside(
    apart: impl Fn(&dyn Fn()) + Send + Sync + 'static,
    filter: &str,
    format: Format,
) {
    let logger = builder(filter, format).build();
    let level = logger.filter();
    // Refused only where there is a logger already.
    if log::set_boxed_logger(Box::new(Beside { logger, apart })).is_ok() {
        log::set_max_level(level);
    }
}

/// A log beside something that is drawn.
struct Beside<F> {
    logger: env_logger::Logger,
    apart: F,
}

impl<F: Fn(&dyn Fn()) + Send + Sync> Log for Beside<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        // Nothing that is not written makes what is drawn flicker.
        if self.logger.matches(record) {
            (self.apart)(&|| self.logger.log(record));
        }
    }

    fn flush(&self) {
        self.logger.flush();
    }
}

fn builder(filter: &str, format: Format) -> env_logger::Builder {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(filter);
    match format {
        Format::Text => builder.format(|out, record| {
            if shows_what_is_sent(record) {
                return Ok(());
            }
            let (level, time) = (record.level(), out.timestamp_millis());
            let style = out.default_level_style(level);
            let text = Said::by(record).text();
            with_thread(|name| {
                let name = one_line(name);
                writeln!(out, "{time} {style}{level:<5}{style:#} [{name}] {text}")
            })
        }),
        Format::Json => {
            std::panic::set_hook(Box::new(say_panic));
            builder
                .write_style(WriteStyle::Never)
                .format(|out, record| {
                    if shows_what_is_sent(record) {
                        return Ok(());
                    }
                    let time = out.timestamp_millis().to_string();
                    let said = Said::by(record);
                    let object = with_thread(|name| said.object(&time, record.level(), name));
                    out.write_all(&line_of(object))
                })
        }
    };
    builder
}

/// Whether a record is one of those in which ureq shows each byte that it sends, credentials and all (in debug builds only).
fn shows_what_is_sent(record: &Record<'_>) -> bool {
    record.level() == Level::Trace && record.target().starts_with("ureq")
}

/// Says words with fields that are not known when this is compiled; `module` is the `module_path!()` of who says it.
pub fn say(level: Level, module: &str, words: &str, fields: &[Field]) {
    if level > log::max_level() {
        return;
    }
    log::logger().log(
        &Record::builder()
            .level(level)
            .target(module)
            .module_path(Some(module))
            .args(format_args!("{words}"))
            .key_values(&Fields(fields))
            .build(),
    );
}

/// The line that would be logged now, with its end: for what is written past the log and its filter.
pub fn line(format: Format, level: Level, words: &str, fields: Vec<Field>) -> Vec<u8> {
    let time = timestamp(SystemTime::now());
    let said = Said {
        words: words.to_owned(),
        fields: fields
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    };
    with_thread(|name| match format {
        Format::Text => {
            let (name, text) = (one_line(name), said.text());
            format!("{time} {level:<5} [{name}] {text}\n").into_bytes()
        }
        Format::Json => line_of(said.object(&time, level, name)),
    })
}

/// The fields as they stand in a line for people.
pub fn text_of(fields: &[Field]) -> String {
    let mut text = String::new();
    for (key, value) in fields {
        push_field(&mut text, key, value);
    }
    text
}

/// A number with so many decimals that are worth a reader's time.
pub fn rounded(number: f64, decimals: i32) -> f64 {
    let factor = 10_f64.powi(decimals);
    (number * factor).round() / factor
}

fn with_thread<T>(then: impl FnOnce(&str) -> T) -> T {
    let thread = thread::current();
    then(thread.name().unwrap_or("-"))
}

/// What a record says.
struct Said {
    words: String,
    fields: Vec<(String, Json)>,
}

impl Said {
    fn by(record: &Record<'_>) -> Self {
        let mut collected = Collected(Vec::new());
        // Nothing that is visited here fails.
        let _ = record.key_values().visit(&mut collected);
        Said {
            words: record.args().to_string(),
            fields: collected.0,
        }
    }

    /// For people.
    fn text(&self) -> String {
        let mut text = one_line(&self.words);
        for (key, value) in &self.fields {
            if key != WHY && !key.starts_with(UNSHOWN) {
                push_field(&mut text, key, value);
            }
        }
        for (_, why) in self.fields.iter().filter(|(key, _)| key == WHY) {
            text.push_str(": ");
            text.push_str(&one_line(&plain(why)));
        }
        text
    }

    /// For programs.
    fn object(&self, time: &str, level: Level, thread: &str) -> Map<String, Json> {
        let mut object = Map::new();
        object.insert("time".to_owned(), time.into());
        object.insert("level".to_owned(), level.as_str().into());
        object.insert("thread".to_owned(), thread.into());
        object.insert("message".to_owned(), self.words.as_str().into());
        for (key, value) in &self.fields {
            let key = key.trim_start_matches(UNSHOWN);
            if self.words.is_empty() && (key == WHY || key == "message") {
                object.insert("message".to_owned(), value.clone());
            } else if !object.contains_key(key) {
                object.insert(key.to_owned(), value.clone());
            }
        }
        object
    }
}

/// Collects the fields of a record.
struct Collected(Vec<(String, Json)>);

impl<'v> VisitSource<'v> for Collected {
    fn visit_pair(&mut self, key: Key<'v>, value: Value<'v>) -> Result<(), kv::Error> {
        let mut typed = Typed(Json::Null);
        value.visit(&mut typed)?;
        self.0.push((key.to_string(), typed.0));
        Ok(())
    }
}

/// A value with its type, as far as JSON has it.
struct Typed(Json);

impl<'v> VisitValue<'v> for Typed {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        self.0 = value.to_string().into();
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.0 = Json::Null;
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }
}

/// Fields as the fields of a record.
struct Fields<'f>(&'f [Field]);

impl Source for Fields<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        for (key, value) in self.0 {
            let value = match value {
                Json::Null => Value::null(),
                Json::Bool(value) => Value::from(*value),
                Json::String(value) => Value::from(value.as_str()),
                Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                    (Some(number), ..) => Value::from(number),
                    (_, Some(number), _) => Value::from(number),
                    (.., number) => Value::from(number.unwrap_or(f64::NAN)),
                },
                value => Value::from_display(value),
            };
            visitor.visit_pair(Key::from_str(key), value)?;
        }
        Ok(())
    }
}

/// Appends ` key=value`; the first one on a line has no blank before it.
fn push_field(text: &mut String, key: &str, value: &Json) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(key);
    text.push('=');
    let value = one_line(&plain(value));
    if key == FREE {
        text.push_str(&value);
        return;
    }
    for c in value.chars() {
        if c.is_whitespace() {
            text.extend(c.escape_unicode());
        } else {
            text.push(c);
        }
    }
}

/// The value without the quotes of JSON.
fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// Whether the character ends a line or is a command to a terminal: controls, the separators of lines and paragraphs, and what
/// turns the direction of writing.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with all that is unsafe escaped.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// The object on a line of its own. What JSON lets pass unescaped, and is unsafe all the same, can stand in its strings only, so
/// escaping it afterwards is JSON as well.
fn line_of(object: Map<String, Json>) -> Vec<u8> {
    let mut json = Json::Object(object).to_string();
    if json.contains(is_unsafe) {
        let mut safe = String::with_capacity(json.len() + 16);
        for c in json.chars() {
            if is_unsafe(c) {
                // All of these are in the plane that four digits reach; a string takes what is written to it.
                let _ = write!(safe, "\\u{:04x}", c as u32);
            } else {
                safe.push(c);
            }
        }
        json = safe;
    }
    json.push('\n');
    json.into_bytes()
}

/// A panic's message as an object. Whatever the filter: as without this hook, it is always said.
fn say_panic(panic: &PanicHookInfo<'_>) {
    let mut fields: Vec<Field> = Vec::new();
    if let Some(place) = panic.location() {
        fields.push(("location", place.to_string().into()));
    }
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        fields.push(("backtrace", backtrace.to_string().into()));
    }
    fields.push((FREE, panic_text(panic.payload()).into()));
    // Where it cannot be written, nothing can.
    let _ = io::stderr().write_all(&line(Format::Json, Level::Error, "panicked", fields));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &str, fields: &[(&str, Json)]) -> Said {
        Said {
            words: words.to_owned(),
            fields: fields
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect(),
        }
    }

    fn object(said: &Said) -> String {
        let line = line_of(said.object("T", Level::Info, "main"));
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn words_and_fields_are_a_line_for_people_and_an_object_for_programs() {
        let done = said(
            "done",
            &[
                ("did", "did:plc:a".into()),
                ("bytes", 7.into()),
                ("rate", 2.0.into()),
            ],
        );
        assert_eq!(done.text(), "done did=did:plc:a bytes=7 rate=2.0");
        assert_eq!(
            object(&done),
            concat!(
                r#"{"time":"T","level":"INFO","thread":"main","message":"done","did":"did:plc:a","bytes":7,"rate":2.0}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_sentence_stands_behind_the_fields_and_what_is_in_the_words_is_for_programs_only() {
        let why = said(
            "abandoned",
            &[("why", "it is gone".into()), ("id", "1-0".into())],
        );
        assert_eq!(why.text(), "abandoned id=1-0: it is gone");
        assert!(object(&why).contains(r#""message":"abandoned","why":"it is gone","id":"1-0""#));
        let bare = said("", &[("id", "1-0".into()), ("why", "it is gone".into())]);
        assert_eq!(bare.text(), "id=1-0: it is gone");
        assert!(object(&bare).contains(r#""message":"it is gone","id":"1-0"}"#));
        let inside = said("entry 1-0 is gone", &[("~id", "1-0".into())]);
        assert_eq!(inside.text(), "entry 1-0 is gone");
        assert!(object(&inside).contains(r#""message":"entry 1-0 is gone","id":"1-0"}"#));
    }

    #[test]
    fn no_value_ends_a_line_or_passes_for_a_field() {
        let evil = "a\nb\r\u{1b}[31m\u{85}\u{2028}\u{202e}\" did=x \\";
        let hostile = said(
            "failed\n",
            &[
                ("host", evil.into()),
                ("time", "never".into()),
                ("error", evil.into()),
            ],
        );
        let text = hostile.text();
        assert!(!text.contains(is_unsafe), "{text}");
        assert_eq!(text.matches(" did=x").count(), 1, "only in the error");
        assert!(text.contains(r#"[31m\u{85}\u{2028}\u{202e}"\u{20}did=x\u{20}\ time=never "#));
        let line = object(&hostile);
        assert_eq!(line.find(is_unsafe), Some(line.len() - 1), "{line}");
        let read: Json = serde_json::from_str(&line).unwrap();
        assert_eq!([&read["host"], &read["error"]], [evil, evil]);
        assert_eq!([&read["message"], &read["time"]], ["failed\n", "T"]);
    }
}
