use std::path::PathBuf;

use opb_userspace::check::{RelayHosts, check};

use super::{
    failure::{self, Failure},
    output::{Format, Output},
};

/// Validate policy and node files
///
/// All policy paths together are one policy. A node file is checked with the policy that it names.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb check /etc/opb/opb.yaml")]
pub(crate) struct Check {
    /// Policy files, directories of them, or node files
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,

    /// Ask the name servers for all relay hosts, and warn of those without an address
    #[arg(long)]
    resolve: bool,

    #[command(flatten)]
    format: Format,
}

impl Check {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let hosts = if self.resolve { RelayHosts::Resolved } else { RelayHosts::Named };
        let report = check(&self.paths, hosts);
        let mut output = Output::new();
        if self.format.json {
            output.json(&report)?;
            output.finish()?;
            return if report.is_valid() { Ok(()) } else { Err(Failure::NEGATIVE_INVALID) };
        }
        if !report.is_valid() {
            return Err(report.problems.into());
        }
        failure::warn(report.warnings());
        for checked in &report.checked {
            let paths: Vec<_> =
                checked.paths.iter().map(|path| path.display().to_string()).collect();
            let paths = paths.join(" ");
            let Some(policy) = &checked.policy else { continue };
            output.line(format_args!(
                "{paths}: valid (groups: {}, IPv4 prefixes: {}, IPv6 prefixes: {}, relay sets: \
                 {}, exemptions: {}, digest: {})",
                policy.groups,
                policy.prefixes_ipv4,
                policy.prefixes_ipv6,
                policy.relays,
                policy.exemptions,
                policy.digest,
            ))?;
        }
        output.finish()
    }
}
