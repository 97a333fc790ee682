use std::collections::BTreeSet;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use opb_userspace::{
    api::{counters::CounterLine, status::Status},
    doctor::{self, Check, Finding, Level},
    node::Config,
};
use serde_json::json;

use super::{
    client::Control,
    failure::Failure,
    output::{Format, Output},
    run::NodeFile,
};

/// Find what could make the filter miss packets on this machine
///
/// Works with and without a daemon, and changes nothing. The exit code is 0 if there is no problem.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb doctor --accept foreign")]
pub(crate) struct Doctor {
    #[command(flatten)]
    node: NodeFile,

    /// Ignore problems of this check in the exit code; may be given several times
    #[arg(long = "accept", value_name = "CHECK", value_parser = checks())]
    accepted: Vec<Check>,

    #[command(flatten)]
    format: Format,
}

fn checks() -> impl clap::builder::TypedValueParser<Value = Check> {
    PossibleValuesParser::new(Check::ALL.map(Check::name)).map(|name| {
        Check::ALL.into_iter().find(|check| check.name() == name).unwrap_or(Check::Files)
    })
}

impl Doctor {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let config = Config::load(&self.node.config)?;
        // The node file says where its daemon answers.
        let control = Control::at(config.control.clone());
        let status: Result<Status, Failure> = control.get("/v1/status");
        let daemon = status.as_ref().map_err(|failure| failure.to_string());
        // Without them, some notes are left out.
        let counters: Vec<CounterLine> = match daemon {
            Ok(_) => control.get("/v1/counters?by=interface").unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let daemon = daemon.as_ref().map_err(String::as_str).copied();
        let findings = doctor::examine(&config, daemon, &counters)?;

        let counts = |finding: &&Finding| {
            finding.level == Level::Problem && !self.accepted.contains(&finding.check)
        };
        let problems = findings.iter().filter(counts).count();
        let mut output = Output::new();
        if self.format.json {
            let checks = Check::ALL.map(Check::name);
            output.json(&json!({
                "healthy": problems == 0,
                "checks": checks,
                "accepted": self.accepted,
                "findings": findings,
            }))?;
        } else {
            for finding in &findings {
                self.describe(&mut output, finding)?;
            }
            let notes = findings.iter().filter(|finding| finding.level == Level::Note).count();
            let accepted = findings.len() - notes - problems;
            output.line(format_args!(
                "{} checks: problems: {problems}, accepted: {accepted}, notes: {notes}",
                Check::ALL.len()
            ))?;
        }
        output.finish()?;
        if problems == 0 { Ok(()) } else { Err(Failure::NEGATIVE) }
    }

    fn describe(&self, output: &mut Output, finding: &Finding) -> Result<(), Failure> {
        let Finding { check, level, places, seen, consequence, action } = finding;
        let word = match level {
            Level::Problem if self.accepted.contains(check) => "accepted",
            Level::Problem => "problem",
            Level::Note => "note",
        };
        let name = check.name();
        output.line(format_args!("{word} ({name}): {}: {seen}", listed(places)))?;
        output.line(format_args!("  consequence: {consequence}"))?;
        output.line(format_args!("  to do: {action}\n"))
    }
}

/// Returns the first five places, and the number of the others.
fn listed(places: &BTreeSet<String>) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<_> = places.iter().take(SHOWN).map(String::as_str).collect();
    match places.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
