//! Reads what callgrind_annotate prints: one line for each pair of a function and a file whose lines are inlined into it.

use std::collections::HashMap;

/// What a function or a file costs.
#[derive(Debug)]
pub struct Cost {
    pub instructions: u64,
    pub name: String,
}

/// A whole listing.
#[derive(Debug)]
pub struct Costs {
    pub total: u64,
    /// Instructions, file and function.
    lines: Vec<(u64, String, String)>,
}

impl Costs {
    /// Reads a listing: ` 1,234 ( 5.67%)  file:function [object]`.
    pub fn read(text: &str) -> Self {
        let mut total = None;
        let mut lines = Vec::new();
        for line in text.lines() {
            let Some((count, rest)) = line.trim_start().split_once(' ') else {
                continue;
            };
            let Ok(instructions) = count.replace(',', "").parse() else {
                continue;
            };
            let Some((_, place)) = rest.split_once(")  ") else {
                continue;
            };
            if place == "PROGRAM TOTALS" {
                total = Some(instructions);
            } else if let Some((file, function)) = place.split_once(':') {
                let (function, object) = function
                    .split_once(" [")
                    .map_or((function, ""), |(function, object)| (function, object));
                lines.push((instructions, short(file, object), function.to_owned()));
            }
        }
        Costs {
            total: total.expect("the total of callgrind_annotate"),
            lines,
        }
    }

    /// What the functions cost themselves that a condition holds for.
    pub fn of(&self, is: impl Fn(&str) -> bool) -> u64 {
        let lines = self.lines.iter().filter(|(_, _, function)| is(function));
        lines.map(|(instructions, ..)| instructions).sum()
    }

    /// Of a listing of own costs: a function with what is inlined into it. A call of a function by itself is the same function.
    pub fn by_function(&self) -> Vec<Cost> {
        self.grouped(
            |_, function| function.split('\'').next(),
            |sum, more| sum + more,
        )
    }

    /// Of a listing of own costs: the lines of a file, wherever they are inlined, but in functions that a condition leaves out.
    pub fn by_file(&self, counts: impl Fn(&str) -> bool) -> Vec<Cost> {
        let file = |file, function: &str| Some(file).filter(|_| counts(function));
        self.grouped(file, |sum, more| sum + more)
    }

    /// Of an inclusive listing. What is called from an inlined file is counted in the function as well, so the largest of its
    /// lines is its cost; calls of a function by itself are in the outermost one.
    pub fn with_callees(&self) -> Vec<Cost> {
        let outermost = |_, function| Some(function).filter(|name: &&str| !name.contains('\''));
        self.grouped(outermost, u64::max)
    }

    fn grouped<'c>(
        &'c self,
        name: impl Fn(&'c str, &'c str) -> Option<&'c str>,
        join: impl Fn(u64, u64) -> u64,
    ) -> Vec<Cost> {
        let mut costs = HashMap::<&str, u64>::new();
        for (instructions, file, function) in &self.lines {
            if let Some(name) = name(file, function) {
                let cost = costs.entry(name).or_default();
                *cost = join(*cost, *instructions);
            }
        }
        let costs = costs.into_iter().map(|(name, instructions)| Cost {
            instructions,
            name: name.to_owned(),
        });
        let mut costs: Vec<Cost> = costs.collect();
        costs.sort_by(|a, b| {
            b.instructions
                .cmp(&a.instructions)
                .then(a.name.cmp(&b.name))
        });
        costs
    }
}

/// A path without what is the same in all of its kind: `src/repo/mst.rs`, `sha2-0.10.9/src/…`, `std/core/src/…`.
fn short(file: &str, object: &str) -> String {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    if let Some(file) = file.strip_prefix(own) {
        return file.to_owned();
    }
    if let Some((_, file)) = file.split_once("/registry/src/") {
        let file = file.split_once('/').map_or(file, |(_, file)| file);
        return file.to_owned();
    }
    if let Some((_, file)) = file.split_once("/library/") {
        return format!("std/{file}");
    }
    if file == "???" {
        let object = object.trim_end_matches(']').rsplit('/').next();
        return format!("? in {}", object.unwrap_or_default());
    }
    file.to_owned()
}

/// A number with its thousands apart.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
