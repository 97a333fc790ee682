//! `opb session`: the sessions that RADIUS accounting reports.

use std::net::IpAddr;

use indicatif::ProgressBar;
use opb_userspace::api::sessions::{
    SessionRemoval, SessionRemoved, SessionRow, SessionState, SessionsQuery,
};

use super::{
    client::{Control, with_query},
    failure::Failure,
    output::{Format, Output},
    upload::Upload,
};

/// List, show and remove the sessions that RADIUS accounting reports
///
/// A session's addresses are in force like run-time entries. For the same prefix, an entry of
/// `opb subscriber add` wins.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example:\n  opb session list --user alice@example.net")]
pub(crate) enum Session {
    List(List),
    Show(Show),
    Remove(Remove),
}

/// List live sessions
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb session list --address 203.0.113.9")]
pub(crate) struct List {
    /// Only those of this network access server
    #[arg(long)]
    nas: Option<String>,

    /// Only those of this user
    #[arg(long)]
    user: Option<String>,

    /// Only the one that owns this address
    #[arg(long)]
    address: Option<IpAddr>,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

/// The session that a command is about.
#[derive(Debug, clap::Args)]
struct Key {
    /// Network access server, as `opb session list` names it
    nas: String,

    /// Acct-Session-Id
    id: String,
}

/// Show one session
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb session show bras1 0001A2B3")]
pub(crate) struct Show {
    #[command(flatten)]
    key: Key,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

/// Remove a session until its server mentions it again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb session remove bras1 0001A2B3")]
pub(crate) struct Remove {
    #[command(flatten)]
    key: Key,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Session {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        match self {
            Self::List(command) => command.execute(),
            Self::Show(command) => command.execute(),
            Self::Remove(command) => command.execute(),
        }
    }
}

impl List {
    fn execute(self) -> Result<(), Failure> {
        let Self { nas, user, address, control, format } = self;
        let rows = find(&control, &SessionsQuery { nas, user, address, id: None })?;
        let mut output = Output::new();
        if format.json {
            rows.iter().try_for_each(|row| output.json(row))?;
        } else if rows.is_empty() {
            output.line("no sessions")?;
        } else {
            let header = ["nas", "session", "user", "rules", "addresses", "began", "note"];
            output.table(header, rows.iter().map(columns))?;
        }
        output.finish()
    }
}

impl Show {
    fn execute(self) -> Result<(), Failure> {
        let Self { key: Key { nas, id }, control, format } = self;
        let query = SessionsQuery { nas: Some(nas), id: Some(id), ..SessionsQuery::default() };
        let rows = find(&control, &query)?;
        let row = rows.first().ok_or_else(|| {
            Failure::new("no such session").hint("`opb session list` lists the live ones")
        })?;
        let mut output = Output::new();
        if format.json {
            output.json(row)?;
            return output.finish();
        }
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().unwrap_or("-").to_owned();
        for (name, value) in [
            ("nas", row.nas.to_string()),
            ("session", row.id.to_string()),
            ("user", text(&row.user)),
            ("calling station", text(&row.calling_station)),
            ("circuit", text(&row.circuit)),
            ("rules", rules(row)),
            ("addresses", addresses(row)),
            ("began", format!("{:.0}", row.began)),
            ("first heard of", format!("{:.0}", row.since)),
            ("silent for", format!("{} s", row.silent)),
            ("note", note(row)),
        ] {
            // A value is one line: it comes from a subscriber.
            output.line(opb_userspace::text::line(&format!("{name}: {value}")))?;
        }
        output.finish()
    }
}

impl Remove {
    fn execute(self) -> Result<(), Failure> {
        let Self { key: Key { nas, id }, control, format } = self;
        let body = SessionRemoval { nas: nas.into(), id: id.into() };
        let body =
            serde_json::to_vec(&body).unwrap_or_else(|error| unreachable!("plain values: {error}"));
        let body = Upload::new(body, ProgressBar::hidden());
        let removed: SessionRemoved = control.send("/v1/sessions/remove", body)?;
        let mut output = Output::new();
        match (format.json, removed.removed) {
            (true, _) => output.json(&removed)?,
            (false, 0) => output.line("no such session")?,
            (false, count) => output.line(format!("removed: {count}"))?,
        }
        output.finish()
    }
}

fn find(control: &Control, query: &SessionsQuery) -> Result<Vec<SessionRow>, Failure> {
    control.get(&with_query("/v1/sessions", query)?)
}

fn columns(row: &SessionRow) -> [String; 7] {
    let user = row.user.as_deref().unwrap_or("-").to_owned();
    let began = format!("{:.0}", row.began);
    [row.nas.to_string(), row.id.to_string(), user, rules(row), addresses(row), began, note(row)]
}

fn rules(row: &SessionRow) -> String {
    match &row.group {
        Some(group) => format!("group {group}"),
        None if row.exempt => "exempt".to_owned(),
        None => "of the files".to_owned(),
    }
}

fn addresses(row: &SessionRow) -> String {
    let addresses: Vec<_> = row.addresses.iter().map(ToString::to_string).collect();
    addresses.join(" ")
}

fn note(row: &SessionRow) -> String {
    let unsure = "unsure: not mentioned since the daemon started".to_owned();
    let unsure = (row.state == SessionState::Unsure).then_some(unsure);
    let orphaned = row.orphaned.as_ref().map(|why| format!("no effect: {why}"));
    let notes: Vec<_> = unsure.into_iter().chain(orphaned).collect();
    notes.join("; ")
}
