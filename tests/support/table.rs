//! Tables for a terminal and for a README alike, and the one of bounds.

use serde_json::{Value, json};

/// What is to be reached, and whether it is.
pub struct Bound {
    pub what: String,
    pub bound: String,
    pub reached: String,
    /// `None`: not measured.
    pub ok: Option<bool>,
}

impl Bound {
    pub fn to_json(&self) -> Value {
        json!({ "what": self.what, "bound": self.bound, "reached": self.reached, "ok": self.ok })
    }
}

/// The table of the bounds.
pub fn bounds(bounds: &[Bound]) -> String {
    let mut rows = vec![
        ["what", "bound", "reached", "ok"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for bound in bounds {
        let ok = match bound.ok {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        rows.push(vec![
            bound.what.clone(),
            bound.bound.clone(),
            bound.reached.clone(),
            ok.to_owned(),
        ]);
    }
    markdown(&rows)
}

/// Columns of equal width; the first row is the head.
pub fn markdown(rows: &[Vec<String>]) -> String {
    let columns = rows[0].len();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, &width)| format!(" {cell:<width$} "))
            .collect();
        format!("|{}|\n", cells.join("|"))
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let mut text = line(&rows[0]);
    text += &format!("|{}|\n", rule.join("|"));
    text.extend(rows[1..].iter().map(line));
    text
}
