use super::{
    client::Control,
    failure::Failure,
    output::{Format, Output},
};
use opb_userspace::api::{
    reload::ReloadOutcome, reload::UnconfirmedStatus, status::AlarmStatus, status::Check,
    status::EntriesStatus, status::HostStatus, status::LastReload, status::PolicyStatus,
    status::State, status::Status as Report,
};

/// Show the policy in force, the interfaces and all problems
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb status")]
pub(crate) struct Status {
    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Status {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let status: Report = self.control.get("/v1/status")?;
        let mut output = Output::new();
        if self.format.json {
            output.json(&status)?;
        } else {
            describe(&mut output, &status)?;
        }
        output.finish()?;
        match status.state {
            State::Enforcing => Ok(()),
            State::Degraded => Err(Failure::NEGATIVE),
        }
    }
}

fn describe(output: &mut Output, status: &Report) -> Result<(), Failure> {
    let Report { state, version, pid, since, policy, .. } = status;
    let state = match state {
        State::Enforcing => "enforcing",
        State::Degraded => "degraded",
    };
    output.line(format_args!("{state}: opb {version}, process {pid}, since {since:.0}"))?;
    status.problems.iter().try_for_each(|text| output.line(format_args!("problem: {text}")))?;
    status.warnings.iter().try_for_each(|text| output.line(format_args!("warning: {text}")))?;

    let PolicyStatus { generation, digest, commit, image_bytes, nodes, overlay, groups } = policy;
    let commit = commit.map(|number| format!(", commit {number}")).unwrap_or_default();
    output.line(format_args!("\npolicy: generation {generation}, digest {digest}{commit}"))?;
    if overlay.prefixes > 0 {
        output.line(format_args!("changed since: {} prefixes", overlay.prefixes))?;
    }
    let percent = nodes.used as f64 * 100.0 / nodes.max as f64;
    output.line(format_args!(
        "image: {image_bytes} bytes, {} of {} nodes ({percent:.1} %)",
        nodes.used, nodes.max
    ))?;
    last_reload(output, &status.last_reload)?;
    checks(output, &status.checks)?;

    run_time(output, status)?;

    if status.detachments > 0 {
        output.line(format_args!(
            "programs detached by others and attached again: {}",
            status.detachments
        ))?;
    }
    if !status.interfaces.is_empty() {
        output.line("")?;
    }
    output.table(
        ["interface", "role", "direction", "hook"],
        status.interfaces.iter().map(|interface| {
            [&interface.name, &interface.role, &interface.direction, &interface.hook]
                .map(Clone::clone)
        }),
    )?;
    output.line("")?;
    output.table(
        ["group", "action", "match", "downstream", "ports", "ipv4", "ipv6"],
        groups.iter().map(|group| {
            let ports: Vec<_> = group.ports.iter().map(ToString::to_string).collect();
            [
                group.name.clone(),
                group.action.clone(),
                group.matching.clone(),
                group.downstream.clone(),
                ports.join(","),
                group.prefixes_v4.to_string(),
                group.prefixes_v6.to_string(),
            ]
        }),
    )
}

/// Prints whether the parts of the daemon work.
fn checks(output: &mut Output, checks: &[Check]) -> Result<(), Failure> {
    let words: Vec<_> = (checks.iter())
        .map(|Check { name, ok, .. }| format!("{name} {}", if *ok { "works" } else { "FAILS" }))
        .collect();
    if words.is_empty() {
        Ok(())
    } else {
        output.line(format_args!("checks: {}", words.join(", ")))
    }
}

/// Prints what is in force besides the policy files.
fn run_time(output: &mut Output, status: &Report) -> Result<(), Failure> {
    if let Some(UnconfirmedStatus { kind, confirm_by }) = status.unconfirmed {
        let kind = kind.name();
        output.line(format_args!(
            "unconfirmed: {kind}, rolls back at {confirm_by:.0} unless confirmed"
        ))?;
    }
    let EntriesStatus { count, orphaned } = status.entries;
    let orphaned = match orphaned {
        0 => String::new(),
        some => format!(" ({some} without effect)"),
    };
    output.line(format_args!("run-time entries: {count}{orphaned}"))?;
    for HostStatus { host, addresses, .. } in &status.hosts {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let addresses = if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") };
        output.line(format_args!("relay host {host}: {addresses}"))?;
    }
    for AlarmStatus { name, waiting, delivered, failed, dropped, .. } in &status.alarms {
        output.line(format_args!(
            "suspects to {name}: {delivered} delivered, {failed} failed, {dropped} dropped, \
             {waiting} waiting"
        ))?;
    }
    Ok(())
}

fn last_reload(output: &mut Output, last: &LastReload) -> Result<(), Failure> {
    let LastReload { time, trigger, by, outcome, .. } = last;
    let by = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let trigger = trigger.name().to_owned() + &by;
    let word = match outcome {
        ReloadOutcome::Unchanged => "unchanged",
        ReloadOutcome::Applied { .. } => "applied",
        ReloadOutcome::Rejected { .. } => "REJECTED, the previous policy is in force",
    };
    output.line(format_args!("last reload: {time:.0} ({trigger}): {word}"))?;
    if let ReloadOutcome::Rejected { errors } = outcome {
        errors
            .iter()
            .try_for_each(|problem| output.line(format_args!("error: {}", problem.text)))?;
    }
    Ok(())
}
