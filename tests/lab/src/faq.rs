//! The provider's FAQ on port 25, as rows: real mail, judged by where it arrives.

use std::{
    fmt,
    io::{BufRead, BufReader, ErrorKind, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    counts::{Counts, moved},
    letter::{Letter, Tls},
    mta::{Attempt, Postfix},
    opb::{DYNAMIC_GROUP, Match, OpbNode, WATCHED_GROUP},
    services,
    topology::{Family, HOME_RECIPIENT, Host, Topology, Via, foreign_recipient},
};

/// For rows that must work.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// For rows that must be blocked, which always take this long: the SYN and one repetition.
const IMPATIENCE: Duration = Duration::from_secs(2);

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    Blocked,
    Works,
    GoesOn,
    Stops,
    /// The attempt failed for another reason: never right.
    Failed,
    /// Accepted, but not in the mailbox: never right.
    Lost,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Delivered => "delivered",
            Self::Blocked => "blocked",
            Self::Works => "works",
            Self::GoesOn => "goes on",
            Self::Stops => "stops",
            Self::Failed => "failed",
            Self::Lost => "lost",
        })
    }
}

/// An outcome with what the programs said about it.
#[derive(Debug, Clone)]
pub struct Happened {
    pub outcome: Outcome,
    pub detail: String,
}

impl Happened {
    pub(crate) fn new(outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { outcome, detail: detail.into() }
    }
}

/// One line of the table.
pub struct Row {
    pub number: u8,
    pub who: &'static str,
    pub does: &'static str,
    pub must: Outcome,
    pub counts: Counts,
    act: fn(&mut Bench<'_>, Family) -> Result<Happened>,
}

/// What a row works with.
pub struct Bench<'a> {
    topology: &'a Topology,
    node: &'a OpbNode,
    held: Held,
}

impl<'a> Bench<'a> {
    pub fn new(topology: &'a Topology, node: &'a OpbNode, held: Held) -> Self {
        Self { topology, node, held }
    }
}

/// Connections from the dynamic subscriber to the foreign MX, opened while nothing was filtered.
pub struct Held {
    v4: BufReader<TcpStream>,
    v6: BufReader<TcpStream>,
}

impl Held {
    pub fn open(topology: &Topology) -> Result<Self> {
        let open = |family| -> Result<_> {
            let mx = SocketAddr::new(topology.foreign.address(family), 25);
            let stream = services::connect(&topology.dynamic.netns, mx, PATIENCE)?;
            let mut session = BufReader::new(stream);
            match reply(&mut session, PATIENCE)? {
                Some(line) if line.starts_with("220") => Ok(session),
                other => bail!("the foreign MX greets with {other:?}"),
            }
        };
        Ok(Self { v4: open(Family::V4)?, v6: open(Family::V6)? })
    }

    fn of(&mut self, family: Family) -> &mut BufReader<TcpStream> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// The result of a row.
pub struct Judged {
    pub happened: Happened,
    /// The counters that moved, as text.
    pub counted: String,
    pub right: bool,
}

impl Row {
    /// Does the row and compares. An error means that opb does not even count; whatever else goes wrong is
    /// the row's outcome, so that the rest of the table is still shown.
    pub fn run(&self, bench: &mut Bench<'_>, family: Family) -> Result<Judged> {
        let before = bench.node.counters()?;
        let happened = (self.act)(bench, family)
            .unwrap_or_else(|error| Happened::new(Outcome::Failed, format!("{error:#}")));
        let after = bench.node.counters()?;
        let (counted_right, counted) = self.counts.compare(&moved(&before, &after));
        let right = happened.outcome == self.must && counted_right;
        Ok(Judged { happened, counted, right })
    }
}

/// The table. Row 11 comes as two, one for each way of matching.
pub fn rows() -> Vec<Row> {
    [dynamic_subscribers(), servers_and_fixed_addresses(), other_policies()]
        .into_iter()
        .flatten()
        .collect()
}

fn group(group: &'static str, verdict: &'static str, reason: &'static str) -> Counts {
    Counts::One { group: Some(group), verdict, reason }
}

fn nobody(reason: &'static str) -> Counts {
    Counts::One { group: None, verdict: "pass", reason }
}

/// Rows 1 to 4.
fn dynamic_subscribers() -> Vec<Row> {
    vec![
        Row {
            number: 1,
            who: "dynamic subscriber",
            does: "mail to a foreign MX, 25",
            must: Outcome::Blocked,
            counts: group(DYNAMIC_GROUP, "drop", "policy"),
            act: |bench, family| dynamic_to_mx(bench.topology, family, IMPATIENCE),
        },
        Row {
            number: 2,
            who: "dynamic subscriber",
            does: "mail to the ISP's relay, 25",
            must: Outcome::Delivered,
            counts: group(DYNAMIC_GROUP, "pass", "relay"),
            act: |bench, family| {
                let Topology { dynamic, relay, .. } = bench.topology;
                mail_to_foreign(bench.topology, dynamic, relay, family, PATIENCE)
            },
        },
        Row {
            number: 3,
            who: "dynamic subscriber",
            does: "submission abroad, 587 and 465",
            must: Outcome::Delivered,
            counts: Counts::Nothing,
            act: |bench, family| submission(bench.topology, family),
        },
        Row {
            number: 4,
            who: "dynamic subscriber",
            does: "web and POP3/IMAP ports",
            must: Outcome::Works,
            counts: Counts::Nothing,
            act: |bench, family| {
                let Topology { dynamic, web, .. } = bench.topology;
                Ok(match services::browse(&dynamic.netns, web.address(family), PATIENCE) {
                    Ok(()) => Happened::new(Outcome::Works, "80 443 110 143 993 995"),
                    Err(error) => Happened::new(Outcome::Blocked, format!("{error:#}")),
                })
            },
        },
    ]
}

/// Rows 5 to 10.
fn servers_and_fixed_addresses() -> Vec<Row> {
    vec![
        Row {
            number: 5,
            who: "home mail server",
            does: "delivers straight to the MX",
            must: Outcome::Blocked,
            counts: group(DYNAMIC_GROUP, "drop", "policy"),
            act: |bench, family| home_to_mx(bench.topology, Via::Direct, family),
        },
        Row {
            number: 6,
            who: "home mail server",
            does: "delivers through the relay",
            must: Outcome::Delivered,
            counts: group(DYNAMIC_GROUP, "pass", "relay"),
            act: |bench, family| home_to_mx(bench.topology, Via::Smarthost, family),
        },
        Row {
            number: 7,
            who: "home mail server",
            does: "receives mail from outside",
            must: Outcome::Delivered,
            counts: Counts::Nothing,
            act: |bench, family| {
                let Topology { foreign, home, home_mta, .. } = bench.topology;
                let letter = Letter::to(HOME_RECIPIENT.to_owned());
                let server = SocketAddr::new(home.address(family), 25);
                letter.deliver(foreign, server, Tls::Off, home_mta, PATIENCE)
            },
        },
        Row {
            number: 8,
            who: "fixed-address subscriber",
            does: "mail to a foreign MX, 25",
            must: Outcome::Delivered,
            counts: nobody("exempt"),
            act: |bench, family| {
                let Topology { fixed, foreign, .. } = bench.topology;
                mail_to_foreign(bench.topology, fixed, foreign, family, PATIENCE)
            },
        },
        Row {
            number: 9,
            who: "hosting customer",
            does: "mail to a foreign MX, 25",
            must: Outcome::Delivered,
            counts: nobody("unknown"),
            act: |bench, family| {
                let Topology { hosting, foreign, .. } = bench.topology;
                mail_to_foreign(bench.topology, hosting, foreign, family, PATIENCE)
            },
        },
        Row {
            number: 10,
            who: "the ISP's relay",
            does: "delivers to the foreign MX",
            must: Outcome::Delivered,
            counts: nobody("unknown"),
            act: |bench, family| {
                let Topology { relay, relay_mta, .. } = bench.topology;
                from_own_queue(bench.topology, relay, relay_mta, Via::Direct, family)
            },
        },
    ]
}

/// Rows 11 and 12: another way of matching, and a group that is only monitored.
fn other_policies() -> Vec<Row> {
    vec![
        Row {
            number: 11,
            who: "dynamic subscriber",
            does: "older connection, match syn",
            must: Outcome::GoesOn,
            counts: group(DYNAMIC_GROUP, "pass", "not-syn"),
            act: |bench, family| older_connection(bench.held.of(family), PATIENCE),
        },
        Row {
            number: 11,
            who: "dynamic subscriber",
            does: "older connection, match any",
            must: Outcome::Stops,
            counts: group(DYNAMIC_GROUP, "drop", "policy"),
            act: older_connection_under_match_any,
        },
        Row {
            number: 12,
            who: "subscriber in monitor",
            does: "mail to a foreign MX, 25",
            must: Outcome::Delivered,
            counts: group(WATCHED_GROUP, "would-drop", "policy"),
            act: |bench, family| {
                let Topology { watched, foreign, .. } = bench.topology;
                mail_to_foreign(bench.topology, watched, foreign, family, PATIENCE)
            },
        },
    ]
}

/// Rows 1 and 5 without a filter: the mail must arrive, or "blocked" would prove nothing.
pub fn unfiltered(topology: &Topology) -> Result<()> {
    for family in Family::BOTH {
        for happened in
            [dynamic_to_mx(topology, family, PATIENCE)?, home_to_mx(topology, Via::Direct, family)?]
        {
            if happened.outcome != Outcome::Delivered {
                bail!("mail does not arrive over {family} without a filter: {}", happened.detail);
            }
        }
    }
    Ok(())
}

/// Row 1 over both families at once: for events in the daemon's life, where no counter has to tell them apart.
/// `must` only decides how long to wait for the opposite.
pub fn dynamic_to_mx_by_both(topology: &Topology, must: Outcome) -> Result<[Happened; 2]> {
    let limit = if must == Outcome::Blocked { IMPATIENCE } else { PATIENCE };
    let [v4, v6] = thread::scope(|scope| {
        let started =
            Family::BOTH.map(|family| scope.spawn(move || dynamic_to_mx(topology, family, limit)));
        started.map(|thread| match thread.join() {
            Ok(happened) => happened,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    Ok([v4?, v6?])
}

fn dynamic_to_mx(topology: &Topology, family: Family, limit: Duration) -> Result<Happened> {
    let Topology { dynamic, foreign, .. } = topology;
    mail_to_foreign(topology, dynamic, foreign, family, limit)
}

fn mail_to_foreign(
    topology: &Topology,
    from: &Host,
    server: &Host,
    family: Family,
    limit: Duration,
) -> Result<Happened> {
    let letter = Letter::to(foreign_recipient(Via::Direct, family));
    let server = SocketAddr::new(server.address(family), 25);
    letter.deliver(from, server, Tls::Off, &topology.foreign_mta, limit)
}

fn submission(topology: &Topology, family: Family) -> Result<Happened> {
    let Topology { dynamic, foreign, foreign_mta, .. } = topology;
    let mut details = Vec::new();
    for (port, tls) in [(587, Tls::Start), (465, Tls::Wrapped)] {
        let letter = Letter::to(foreign_recipient(Via::Direct, family));
        let server = SocketAddr::new(foreign.address(family), port);
        let Happened { outcome, detail } =
            letter.deliver(dynamic, server, tls, foreign_mta, PATIENCE)?;
        details.push(format!("{port}: {detail}"));
        if outcome != Outcome::Delivered {
            return Ok(Happened::new(outcome, details.join(", ")));
        }
    }
    Ok(Happened::new(Outcome::Delivered, details.join(", ")))
}

fn home_to_mx(topology: &Topology, via: Via, family: Family) -> Result<Happened> {
    let Topology { home, home_mta, .. } = topology;
    from_own_queue(topology, home, home_mta, via, family)
}

/// Hands a letter to a mail server on its own machine, and waits until that server has delivered or deferred it.
fn from_own_queue(
    topology: &Topology,
    host: &Host,
    mta: &Postfix,
    via: Via,
    family: Family,
) -> Result<Happened> {
    let letter = Letter::to(foreign_recipient(via, family));
    let own = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 25);
    letter.send(host, own, Tls::Off, PATIENCE)?.map_err(anyhow::Error::msg)?;
    match mta.attempt(&letter.token, PATIENCE)? {
        Attempt::Sent => letter.look_for_at(&topology.foreign_mta),
        Attempt::Deferred(reason) => {
            mta.purge()?;
            letter.look_out_for_at(&topology.foreign_mta, reason)
        }
    }
}

fn older_connection(session: &mut BufReader<TcpStream>, limit: Duration) -> Result<Happened> {
    session.get_mut().write_all(b"NOOP\r\n")?;
    Ok(match reply(session, limit)? {
        Some(line) if line.starts_with("250") => Happened::new(Outcome::GoesOn, line.trim()),
        Some(line) => bail!("the foreign MX answers {line:?}"),
        None => Happened::new(Outcome::Stops, format!("no answer within {limit:?}")),
    })
}

/// The policy comes by `opb reload` and is reverted by SIGHUP, so that both ways are used. Once it is
/// back, TCP repeats what was dropped: the answer proves that only the filter had stopped it.
fn older_connection_under_match_any(bench: &mut Bench<'_>, family: Family) -> Result<Happened> {
    let Bench { node, held, .. } = bench;
    node.reload(Match::Any)?;
    let happened = older_connection(held.of(family), IMPATIENCE);
    node.reload_by_signal(Match::Syn)?;
    let happened = happened?;
    if happened.outcome == Outcome::Stops {
        let answer = reply(held.of(family), PATIENCE)?;
        if !answer.as_ref().is_some_and(|line| line.starts_with("250")) {
            bail!("match syn is back, but the connection does not go on: {answer:?}");
        }
        return Ok(Happened { detail: happened.detail + ", on again with syn", ..happened });
    }
    Ok(happened)
}

/// The next line, or `None` if none comes in time.
fn reply(session: &mut BufReader<TcpStream>, limit: Duration) -> Result<Option<String>> {
    session.get_ref().set_read_timeout(Some(limit))?;
    let mut line = String::new();
    match session.read_line(&mut line) {
        Ok(0) => bail!("the foreign MX closed the connection"),
        Ok(_) => Ok(Some(line)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_there() {
        let mut numbers: Vec<u8> = rows().iter().map(|row| row.number).collect();
        numbers.dedup();
        assert_eq!(numbers, (1..=12).collect::<Vec<u8>>());
    }
}
