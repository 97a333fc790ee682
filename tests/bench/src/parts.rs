//! The parts of the benchmarks, and what came of them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    drop, forward, growth,
    plan::Effort,
    policy,
    report::{About, Record, Sheet},
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
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Verdict => "verdict",
            Self::Drop => "drop",
            Self::Forward => "forward",
            Self::Policy => "policy",
            Self::Growth => "growth",
        }
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

/// Rows of all parts that were measured; those of the others are empty.
#[derive(Default)]
pub struct Results {
    pub verdict: Vec<verdict::Row>,
    pub drop: Vec<drop::Row>,
    pub forward: Vec<forward::Row>,
    pub policy: Vec<policy::Row>,
    pub growth: Vec<growth::Row>,
}

/// Measures `parts`, writes what came of them, and returns it with the tables.
pub fn run(setting: &Setting, parts: &[Part]) -> Result<(Results, Vec<Sheet>)> {
    let mut results = Results::default();
    let mut sheets = Vec::new();
    std::fs::create_dir_all(&setting.out)
        .with_context(|| format!("cannot make {}", setting.out.display()))?;
    for part in parts {
        match part {
            Part::Verdict => {
                results.verdict = measure(*part, setting, || verdict::run(setting.effort))?;
                sheets.extend(verdict::sheets(&results.verdict));
            }
            Part::Drop => {
                results.drop = measure(*part, setting, || drop::run(setting))?;
                sheets.extend(drop::sheets(&results.drop));
            }
            Part::Forward => {
                results.forward = measure(*part, setting, || forward::run(setting))?;
                sheets.extend(forward::sheets(&results.forward));
            }
            Part::Policy => {
                results.policy = measure(*part, setting, || policy::run(setting))?;
                sheets.extend(policy::sheets(&results.policy));
            }
            Part::Growth => {
                results.growth = measure(*part, setting, || growth::run(setting))?;
                sheets.extend(growth::sheets(&results.growth));
            }
        }
    }
    Ok((results, sheets))
}

fn measure<T>(
    part: Part,
    setting: &Setting,
    work: impl FnOnce() -> Result<Vec<T>>,
) -> Result<Vec<T>>
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let name = part.name();
    let rows = work().with_context(|| format!("part {name}"))?;
    let record = Record { about: About::here(setting.effort)?, rows };
    record.write(&setting.out, name)?;
    Ok(record.rows)
}
