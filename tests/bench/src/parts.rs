//! The parts of the benchmarks, and what came of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    drop, forward, growth, load,
    plan::Effort,
    plot::Plot,
    policy,
    report::{About, Grid, Record},
    verdict,
};

/// A part that can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The verdict alone, against an empty program and LPM tries
    Verdict,
    /// A flood over a cable, against nftables, iptables and others
    Drop,
    /// What passing traffic pays on a gateway
    Forward,
    /// From file to enforced, changes, and memory
    Policy,
    /// Groups, relays, VLAN tags, interfaces
    Growth,
    /// Changes and memory while the daemon is asked too much
    Load,
}

impl Part {
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Verdict => "verdict",
            Self::Drop => "drop",
            Self::Forward => "forward",
            Self::Policy => "policy",
            Self::Growth => "growth",
            Self::Load => "load",
        }
    }

    /// Measures it and writes what came of it.
    pub fn run(self, setting: &Setting) -> Result<()> {
        match self {
            Self::Verdict => self.write(setting, verdict::run(setting.effort)),
            Self::Drop => self.write(setting, drop::run(setting)),
            Self::Forward => self.write(setting, forward::run(setting)),
            Self::Policy => self.write(setting, policy::run(setting)),
            Self::Growth => self.write(setting, growth::run(setting)),
            Self::Load => self.write(setting, load::run(setting)),
        }
    }

    fn write<T: Serialize>(self, setting: &Setting, rows: Result<Vec<T>>) -> Result<()> {
        let rows = rows.with_context(|| format!("part {}", self.name()))?;
        let directory = &setting.out;
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Record { about: About::here(setting.effort)?, rows }.write(directory, self.name())
    }
}

/// What a run works with.
pub struct Setting {
    pub effort: Effort,
    /// The program that is measured where a whole node is.
    pub opb: PathBuf,
    /// Where the files of results go.
    pub out: PathBuf,
}

/// Rows of the parts that were measured; those of the others are empty.
#[derive(Default)]
pub struct Results {
    pub about: Vec<(Part, About)>,
    pub verdict: Vec<verdict::Row>,
    pub drop: Vec<drop::Row>,
    pub forward: Vec<forward::Row>,
    pub policy: Vec<policy::Row>,
    pub growth: Vec<growth::Row>,
    pub load: Vec<load::Row>,
}

impl Results {
    /// What the last runs of `parts` left in `directory`.
    pub fn read(directory: &Path, parts: &[Part]) -> Result<Self> {
        let mut results = Self::default();
        for &part in parts {
            let about = &mut results.about;
            match part {
                Part::Verdict => results.verdict = read(directory, part, about)?,
                Part::Drop => results.drop = read(directory, part, about)?,
                Part::Forward => results.forward = read(directory, part, about)?,
                Part::Policy => results.policy = read(directory, part, about)?,
                Part::Growth => results.growth = read(directory, part, about)?,
                Part::Load => results.load = read(directory, part, about)?,
            }
        }
        Ok(results)
    }

    pub fn grids(&self, part: Part) -> Vec<Grid> {
        match part {
            Part::Verdict => verdict::grids(&self.verdict),
            Part::Drop => drop::grids(&self.drop),
            Part::Forward => forward::grids(&self.forward),
            Part::Policy => policy::grids(&self.policy),
            Part::Growth => growth::grids(&self.growth),
            Part::Load => load::grids(&self.load),
        }
    }

    pub fn plots(&self, part: Part) -> Vec<Plot> {
        match part {
            Part::Verdict => verdict::plots(&self.verdict),
            Part::Drop => drop::plots(&self.drop),
            Part::Policy => policy::plots(&self.policy),
            Part::Forward | Part::Growth | Part::Load => Vec::new(),
        }
    }
}

fn read<T: DeserializeOwned>(
    directory: &Path,
    part: Part,
    about: &mut Vec<(Part, About)>,
) -> Result<Vec<T>> {
    let record = Record::read(directory, part.name())?;
    about.push((part, record.about));
    Ok(record.rows)
}
