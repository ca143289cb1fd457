//! Text as it is shown to people: escaped, measured, and in columns.
//!
//! DIDs, hosts, error texts and names of consumers come from strangers. Whatever could move a cursor, change a colour, turn the
//! direction of a line or stand there unseen (control characters, format characters such as those of bidi, combining marks, bytes that
//! are no UTF-8) is shown as its escape. A backslash stays as it is: many texts have been escaped where they arose, and are the same
//! when they are escaped again. Columns line up by the width that a terminal gives to each character. Only on a terminal is anything
//! cut; a pipe gets all of it. Pinned by the tests here, and by `tests/dead_letters_command.rs`, `tests/status_command.rs` and
//! `tests/check.rs`.

use std::io::{self, IsTerminal};

use terminal_size::{Height, Width, terminal_size_of};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Between two columns.
const GAP: &str = "  ";
/// What stands for the rest of a text that is cut.
const REST: char = '…';
/// Off a terminal, a cell that is wider than this many columns moves its own row only.
const WIDEST: usize = 64;
/// No column is made narrower than this, in columns.
const NARROWEST: usize = 4;

/// The text with all escaped that is not plainly visible. What has been escaped stays as it is.
pub fn escaped(text: &str) -> String {
    escaped_bytes(text.as_bytes())
}

/// The same of bytes that should be text; those that are not are shown as `\xNN`.
pub fn escaped_bytes(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '"' | '\\' => shown.push(c),
                // The standard library knows which characters are visible, and escapes all others.
                c => shown.extend(c.escape_debug()),
            }
        }
        shown.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    shown
}

/// How many columns a text takes that has been escaped.
pub fn width(text: &str) -> usize {
    text.width()
}

/// The text, or as much of it as goes into so many columns with a sign that it goes on.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let mut shown: String = text
        .chars()
        .take_while(|c| {
            let fits = c.width().unwrap_or(0) <= left;
            left -= if fits { c.width().unwrap_or(0) } else { 0 };
            fits
        })
        .collect();
    if columns > 0 {
        shown.push(REST);
    }
    shown
}

/// Columns and lines of the terminal that standard output is; `None` where it is none.
pub fn screen() -> Option<(usize, usize)> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let (Width(columns), Height(lines)) = terminal_size_of(&out)?;
    // A terminal that does not know its size says 0.
    (columns > 0 && lines > 0).then_some((columns.into(), lines.into()))
}

/// A column of a [`Table`].
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// What stands above it.
    pub title: &'static str,
    /// Whether it ends where the others end: numbers.
    pub right: bool,
}

/// A column of texts.
pub const fn text(title: &'static str) -> Column {
    Column {
        title,
        right: false,
    }
}

/// A column of numbers.
pub const fn number(title: &'static str) -> Column {
    Column { title, right: true }
}

/// Rows in columns, page by page: a later page may make a column wider, never narrower.
pub struct Table {
    columns: Vec<Column>,
    /// The widest cell of each column so far.
    widths: Vec<usize>,
    /// How many columns the terminal has.
    screen: Option<usize>,
    titled: bool,
}

impl Table {
    /// No rows yet. `screen`: the columns of the terminal, where it is one.
    pub fn new(columns: &[Column], screen: Option<usize>) -> Self {
        Table {
            columns: columns.to_vec(),
            widths: columns.iter().map(|column| width(column.title)).collect(),
            screen,
            titled: false,
        }
    }

    /// The lines of these rows, behind the titles the first time. Cells are escaped here.
    pub fn page<R: AsRef<[String]>>(&mut self, rows: &[R]) -> Vec<String> {
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.as_ref().iter().map(|cell| escaped(cell)).collect())
            .collect();
        for row in &rows {
            for (widest, cell) in self.widths.iter_mut().zip(row) {
                *widest = (*widest).max(width(cell));
            }
        }
        let widths = self.fitted();
        let titles: Vec<String> = self.columns.iter().map(|c| c.title.to_owned()).collect();
        let head = (!std::mem::replace(&mut self.titled, true)).then_some(titles);
        head.iter()
            .chain(&rows)
            .map(|row| self.line(row, &widths))
            .collect()
    }

    /// How wide each column is made. On a terminal the widest ones give way until a row fits.
    fn fitted(&self) -> Vec<usize> {
        let Some(screen) = self.screen else {
            return self
                .widths
                .iter()
                .map(|width| *width.min(&WIDEST))
                .collect();
        };
        let mut widths = self.widths.clone();
        let room = screen.saturating_sub(GAP.len() * (widths.len() - 1));
        let mut over = widths.iter().sum::<usize>().saturating_sub(room);
        while over > 0 {
            let mut sorted = widths.clone();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            let widest = sorted[0];
            if widest <= NARROWEST {
                break;
            }
            // Down to the next widest in one step: cells may be very long.
            let ties = sorted.iter().filter(|width| **width == widest).count();
            let next = sorted.get(ties).copied().unwrap_or(0).max(NARROWEST);
            let step = (widest - next).min(over.div_ceil(ties));
            for width in widths.iter_mut().filter(|width| **width == widest) {
                *width -= step.min(over);
                over -= step.min(over);
            }
        }
        widths
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (n, (cell, columns)) in row.iter().zip(widths).enumerate() {
            let cell = match self.screen {
                Some(_) => cut(cell, *columns),
                None => cell.clone(),
            };
            let padding = " ".repeat(columns.saturating_sub(width(&cell)));
            if n > 0 {
                line.push_str(GAP);
            }
            if self.columns[n].right {
                line.push_str(&padding);
                line.push_str(&cell);
            } else {
                line.push_str(&cell);
                line.push_str(&padding);
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// A length of time in its two largest units.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{minutes} min {} s", whole % 60),
        3600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A count with commas between its thousands.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unseen_is_left() {
        for (text, shown) in [
            ("did:plc:abc 'x' \"y\" é 漢", "did:plc:abc 'x' \"y\" é 漢"),
            (
                "\u{1b}[31mred\u{7}\r\n\t\0",
                "\\u{1b}[31mred\\u{7}\\r\\n\\t\\0",
            ),
            ("\u{9b}2J\u{85}", "\\u{9b}2J\\u{85}"),
            (r"a\u{1b} \ \\", r"a\u{1b} \ \\"),
            ("e\u{301}", "e\\u{301}"),
        ] {
            assert_eq!(escaped(text), shown);
            assert_eq!(escaped(shown), shown, "once is enough");
        }
        let unseen = "\u{ad}\u{61c}\u{200b}\u{200d}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\
                      \u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}\u{fff9}\u{e0041}\u{a0}\u{e000}";
        for c in unseen.chars() {
            assert_eq!(escaped(&c.to_string()), format!("\\u{{{:x}}}", c as u32));
        }
        assert_eq!(escaped_bytes(b"a\xff\xe2\x80b"), "a\\xff\\xe2\\x80b");
    }

    #[test]
    fn a_text_is_cut_by_its_width() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 5), "abcd…");
        assert_eq!(cut("漢字漢字", 8), "漢字漢字");
        assert_eq!(cut("漢字漢字", 6), "漢字…");
        assert_eq!(cut("abc", 0), "");
    }

    fn rows(rows: &[[&str; 3]]) -> Vec<[String; 3]> {
        rows.iter().map(|row| row.map(str::to_owned)).collect()
    }

    #[test]
    fn columns_line_up_and_only_a_terminal_cuts() {
        let columns = [text("NAME"), number("COUNT"), text("TEXT")];
        let page = rows(&[["漢字漢", "1", "short"], ["a\n", "12345", &"x".repeat(200)]]);
        let lines = Table::new(&columns, None).page(&page);
        assert_eq!(lines[0], "NAME    COUNT  TEXT");
        assert_eq!(lines[1], "漢字漢      1  short");
        assert_eq!(lines[2], format!("a\\n     12345  {}", "x".repeat(200)));
        let lines = Table::new(&columns, Some(30)).page(&page);
        assert_eq!(lines[2], format!("a\\n     12345  {}…", "x".repeat(14)));
        for screen in 1..300 {
            let mut table = Table::new(&columns, Some(screen));
            for line in table.page(&page) {
                // Three columns are not made narrower than four each.
                assert!(width(&line) <= screen.max(3 * NARROWEST + 2 * GAP.len()));
            }
            assert_eq!(table.page(&page).len(), 2, "titles come once");
        }
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0.4, 59.9, 60.0, 3661.0, 90_000.0].map(duration),
            ["0 s", "59 s", "1 min 0 s", "1 h 1 min", "1 d 1 h"]
        );
    }
}
