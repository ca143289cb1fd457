//! What the program made of a mutant, and whether that is right.

use super::Mutant;
use super::reader::{Contents, Reading, Stage};

/// What the program made of an archive.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The texts of all events, the time that they name, and how many leaves were skipped.
    Events {
        texts: Vec<String>,
        time: String,
        skipped: u64,
    },
    /// The reason's code and the text.
    Refused { reason: String, text: String },
    /// What the panic said.
    Panic(String),
}

impl Outcome {
    /// The class that outcomes are counted by.
    pub fn class(&self) -> String {
        match self {
            Outcome::Events { skipped: 0, .. } => "events".into(),
            Outcome::Events { .. } => "events, others skipped".into(),
            Outcome::Refused { reason, .. } => reason.clone(),
            Outcome::Panic(_) => "panic".into(),
        }
    }
}

/// What the second reader says of a mutant.
pub struct Opinion {
    served: Reading,
    /// Of what was signed, where that is another archive and had to be looked at.
    signed: Option<Reading>,
}

impl Opinion {
    /// On what was made of a mutant; `now` in microseconds since 1970.
    pub fn of(mutant: &Mutant, outcome: &Outcome, now: u64) -> Self {
        let served = mutant.reading(now);
        // Where nothing came out and nothing was signed again, what was signed does not matter.
        let matters = mutant.again || matches!(outcome, Outcome::Events { .. });
        let signed = mutant.signed.is_some() && matters;
        let signed = signed.then(|| mutant.signed_reading(now));
        Self { served, signed }
    }

    /// What the owner signed, whatever became of it on its way.
    fn signed(&self) -> &Reading {
        self.signed.as_ref().unwrap_or(&self.served)
    }

    /// Whether nodes, records or commit are not the sound repo's, and yet all hashes fit and so does the owner's signature.
    pub fn signed_again(&self, mutant: &Mutant) -> bool {
        let reading = self.signed();
        reading.whole
            && reading
                .signed
                .as_ref()
                .is_some_and(|message| *message != mutant.origin)
    }

    /// Whether the outcome is right; if not, why.
    ///
    /// In both directions: nothing may come out that is not signed, and everything that is signed and sound must.
    pub fn check(&self, outcome: &Outcome) -> Result<(), String> {
        match outcome {
            Outcome::Panic(text) => Err(format!("a panic: {text}")),
            Outcome::Events {
                texts,
                time,
                skipped,
            } => {
                let contents = match &self.signed().verdict {
                    Ok(contents) => contents,
                    Err(refusal) => {
                        return Err(format!("events of what must be refused: {refusal:?}"));
                    }
                };
                same_events(contents, texts, time, *skipped)?;
                match (&self.served.verdict, self.served.unusual) {
                    (Err(refusal), None) => Err(format!(
                        "events of an archive that must be refused: {refusal:?}"
                    )),
                    _ => Ok(()),
                }
            }
            Outcome::Refused { reason, text } => {
                match (&self.served.verdict, self.served.unusual) {
                    (_, Some(_)) => Ok(()),
                    (Ok(contents), None) => Err(format!(
                        "refused as {reason} ({text}), but sound, with {} records",
                        contents.records.len()
                    )),
                    (Err(refusal), None) if fits(refusal.stage, reason) => Ok(()),
                    (Err(refusal), None) => Err(format!(
                        "refused as {reason} ({text}), and not for {refusal:?}"
                    )),
                }
            }
        }
    }
}

fn same_events(
    contents: &Contents,
    texts: &[String],
    time: &str,
    skipped: u64,
) -> Result<(), String> {
    let expected = contents.events(time);
    if let Some(wrong) = texts.iter().find(|text| !expected.contains(text)) {
        return Err(format!("an event that is not signed: {wrong}"));
    }
    if let Some(missing) = expected.iter().find(|text| !texts.contains(text)) {
        return Err(format!("an event is missing: {missing}"));
    }
    if *texts != expected {
        return Err("events out of order, or one more than once".into());
    }
    if skipped != contents.skipped {
        return Err(format!(
            "{skipped} records skipped, and not {}",
            contents.skipped
        ));
    }
    Ok(())
}

/// Whether the reason is that of the stage.
fn fits(stage: Stage, reason: &str) -> bool {
    match stage {
        Stage::Car => reason == "car",
        Stage::Incomplete => reason == "incomplete",
        Stage::Commit => reason == "commit",
        Stage::Did => reason == "did_mismatch",
        Stage::Signature => reason == "signature",
        Stage::Tree => reason == "mst",
    }
}
