//! Mutants: repositories that were sound until something happened to them.
//!
//! A mutant follows from a seed and its number alone. Half of them are damaged as an archive and keep the commit that their
//! owner signed ([`archive`]). In the others nodes, records or the commit are changed, and all hashes above and the signature
//! are made again ([`draft`], [`tree`], [`commit`]), so that nothing but the rules of commit, tree and records stands between them and the
//! output; some of these are then damaged as an archive as well.

mod archive;
mod bases;
mod bytes;
pub mod campaign;
mod commit;
mod draft;
mod items;
pub mod reader;
mod tree;
mod values;
pub mod verdict;

use self::bases::Base;
use self::draft::Draft;
use self::reader::Reading;
use crate::support::generator::{Cid, Random, SigningKey, car, did_plc};

/// A mutant, and what of it its owner signed.
pub struct Mutant {
    pub number: u64,
    pub did: String,
    pub key: SigningKey,
    /// What was done to it.
    pub history: Vec<&'static str>,
    /// The archive as it is served.
    pub served: Vec<u8>,
    /// The archive of the repo that is signed, before it was damaged on its way; `None`: it is the served one.
    pub signed: Option<Vec<u8>>,
    /// The commit of the sound repo that it comes from, without the signature.
    pub origin: Vec<u8>,
    /// Whether the commit was made again.
    pub again: bool,
}

/// All mutants of a seed.
pub struct Mutants {
    pub seed: u64,
    bases: Vec<Base>,
}

impl Mutants {
    pub fn of(seed: u64) -> Self {
        let bases = bases::of(seed);
        Self { seed, bases }
    }

    /// The mutant of this number.
    pub fn get(&self, number: u64) -> Mutant {
        let account = Random::new(self.seed ^ number.wrapping_mul(0xa076_1d64_78bd_642f)).bits();
        let mut random = Random::new(account);
        let did = did_plc(account);
        let base = &self.bases[random.below(self.bases.len() as u64) as usize];
        let mut draft = base.draft.clone();
        draft.did.clone_from(&did);
        let again = random.chance(50);
        let mut mutant = Mutant {
            number,
            did,
            key: draft.key.clone(),
            history: Vec::new(),
            served: Vec::new(),
            signed: None,
            origin: draft.message(),
            again,
        };
        let commit = if again {
            mutant.signed_again(&mut random, &mut draft, base)
        } else {
            draft.commit()
        };
        let root = commit.0;
        let mut blocks = vec![commit];
        blocks.append(&mut draft.blocks);
        // What has been signed again is mostly left alone: the damage is in it.
        let (damaged, moved) = if again { (15, 55) } else { (85, 100) };
        let fate = random.below(100);
        let (served, name) = if fate < damaged {
            mutant.signed = Some(car::write(&[root], &blocks));
            archive::damage(&mut random, root, &mut blocks)
        } else if fate < moved {
            archive::harmless(&mut random, root, &mut blocks)
        } else {
            (car::write(&[root], &blocks), "as it is")
        };
        mutant.history.push(name);
        mutant.served = served;
        mutant
    }
}

impl Mutant {
    /// Changes what is signed; returns the commit.
    fn signed_again(
        &mut self,
        random: &mut Random,
        draft: &mut Draft,
        base: &Base,
    ) -> (Cid, Vec<u8>) {
        let ways = random.below(100);
        if ways < 15 {
            let (regrown, name) = tree::regrown(random, &draft.did, base);
            *draft = regrown;
            self.history.push(name);
        }
        if (12..80).contains(&ways) {
            for _ in 0..1 + random.below(8) / 6 {
                self.history.push(tree::damage(random, draft));
            }
        }
        if ways >= 76 {
            let (commit, name) = draft.odd_commit(random);
            self.history.push(name);
            return commit;
        }
        draft.commit()
    }

    /// What the second reader makes of the served archive.
    pub fn reading(&self, now: u64) -> Reading {
        reader::read(&self.served, &self.did, &self.key, now)
    }

    /// What the second reader makes of what was signed.
    pub fn signed_reading(&self, now: u64) -> Reading {
        let signed = self.signed.as_ref().unwrap_or(&self.served);
        reader::read(signed, &self.did, &self.key, now)
    }
}
