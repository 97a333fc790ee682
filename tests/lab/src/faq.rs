//! The provider's FAQ on port 25, as rows that are done for real and judged by where the mail ends up.

use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead, BufReader, ErrorKind, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    mta::{Attempt, Postfix},
    opb::{Counter, DYNAMIC_GROUP, Match, OpbNode, WATCHED_GROUP},
    process, services,
    topology::{Family, HOME_RECIPIENT, Host, Topology, Via, foreign_recipient},
};

/// For what has to work: only a broken lab uses it up.
const PATIENCE: Duration = Duration::from_secs(15);
/// For what has to be blocked, and so uses it up every time: the SYN and one repetition.
const IMPATIENCE: Duration = Duration::from_secs(2);

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    Blocked,
    Works,
    GoesOn,
    Stops,
    /// Accepted, and then not in the mailbox: right in no row.
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
    fn new(outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { outcome, detail: detail.into() }
    }
}

/// The one counter that a row has to move.
#[derive(Debug, Clone, Copy)]
pub enum Counts {
    /// The traffic never was the filter's business.
    Nothing,
    One {
        /// No group for sources that are in none.
        group: Option<&'static str>,
        verdict: &'static str,
        reason: &'static str,
    },
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

/// Everything that a row may use.
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

/// What a row did, and whether that is what the table says.
pub struct Judged {
    pub happened: Happened,
    /// What moved, in words.
    pub counted: String,
    pub right: bool,
}

impl Row {
    /// Does the row and compares. An error means that it could not be done at all.
    pub fn run(&self, bench: &mut Bench<'_>, family: Family) -> Result<Judged> {
        let before = bench.node.counters()?;
        let happened = (self.act)(bench, family)
            .with_context(|| format!("row {} ({}, {family})", self.number, self.who))?;
        let after = bench.node.counters()?;
        let (counted_right, counted) = self.counts.compare(&moved(&before, &after));
        let right = happened.outcome == self.must && counted_right;
        Ok(Judged { happened, counted, right })
    }
}

/// The table. Row 11 comes as two, one for each way of matching.
pub fn rows() -> [Row; 13] {
    let group = |group, verdict, reason| Counts::One { group: Some(group), verdict, reason };
    let nobody = |reason| Counts::One { group: None, verdict: "pass", reason };
    [
        Row {
            number: 1,
            who: "dynamic subscriber",
            does: "mail to a foreign MX, 25",
            must: Outcome::Blocked,
            counts: group(DYNAMIC_GROUP, "drop", "policy"),
            act: |bench, family| dynamic_to_mx(bench.topology, family),
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

/// Rows 1 and 5 where nothing filters: there the same mail has to arrive, or "blocked" would prove nothing.
pub fn unfiltered(topology: &Topology) -> Result<()> {
    for family in Family::BOTH {
        for happened in
            [dynamic_to_mx(topology, family)?, home_to_mx(topology, Via::Direct, family)?]
        {
            if happened.outcome != Outcome::Delivered {
                bail!("mail does not arrive over {family} without a filter: {}", happened.detail);
            }
        }
    }
    Ok(())
}

/// Row 1. Public because the life cycle is shown with it too: after a crash it has to hold still.
pub fn dynamic_to_mx(topology: &Topology, family: Family) -> Result<Happened> {
    let Topology { dynamic, foreign, .. } = topology;
    mail_to_foreign(topology, dynamic, foreign, family, IMPATIENCE)
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

/// Hands a letter to a mail server on its own machine, and follows what that server makes of it.
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

/// The policy comes by `opb reload` and is taken back by SIGHUP, so that both ways are used. Once it is
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

/// The next line, or nothing if none comes in time.
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

#[derive(Debug, Clone, Copy)]
enum Tls {
    Off,
    Start,
    Wrapped,
}

/// A message that can be told from all others.
struct Letter {
    token: String,
    to: String,
}

impl Letter {
    fn to(to: String) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        // Ends in a letter: no token is the beginning of another one.
        Self { token: format!("opb-letter-{}-{number}-x", std::process::id()), to }
    }

    /// Sends and then looks into the mailbox.
    fn deliver(
        &self,
        from: &Host,
        server: SocketAddr,
        tls: Tls,
        receiver: &Postfix,
        limit: Duration,
    ) -> Result<Happened> {
        match self.send(from, server, tls, limit)? {
            Ok(()) => self.look_for_at(receiver),
            Err(reason) => self.look_out_for_at(receiver, reason),
        }
    }

    /// One SMTP session by swaks. The inner error is what swaks says why it could not.
    fn send(
        &self,
        from: &Host,
        server: SocketAddr,
        tls: Tls,
        limit: Duration,
    ) -> Result<Result<(), String>> {
        let mut swaks = from.netns.command("swaks");
        // Somebody's ~/.swaksrc is not part of the lab.
        swaks.env("HOME", "/nonexistent").args(["--silent", "2"]);
        swaks.args(["--server", &server.ip().to_string(), "--port", &server.port().to_string()]);
        swaks.args(["--timeout", &limit.as_secs().to_string(), "--helo", "client.example"]);
        swaks.args(["--from", "sender@client.example", "--to", &self.to]);
        swaks.args(["--header", &format!("Subject: {}", self.token)]);
        swaks.args(["--header", &format!("Message-Id: <{}@client.example>", self.token)]);
        swaks.args(["--body", &self.token]);
        swaks.args(match tls {
            Tls::Off => [].as_slice(),
            Tls::Start => ["--tls"].as_slice(),
            Tls::Wrapped => ["--tls-on-connect"].as_slice(),
        });
        if server.is_ipv6() {
            swaks.arg("-6");
        }
        let output = process::run(&mut swaks, limit * 4)?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        let said = output.stdout + &output.stderr;
        let reason = said.lines().find(|line| line.starts_with("***")).unwrap_or(&said);
        Ok(Err(reason.trim_start_matches(['*', ' ', '\t']).to_owned()))
    }

    fn look_for_at(&self, receiver: &Postfix) -> Result<Happened> {
        Ok(if receiver.receives(&self.token, PATIENCE)? {
            Happened::new(Outcome::Delivered, "in the mailbox")
        } else {
            Happened::new(Outcome::Lost, "accepted, but not in the mailbox")
        })
    }

    /// A sender that failed does not prove that nothing arrived.
    fn look_out_for_at(&self, receiver: &Postfix, reason: String) -> Result<Happened> {
        Ok(if receiver.has(&self.token)? {
            Happened::new(Outcome::Delivered, format!("in the mailbox, though: {reason}"))
        } else {
            Happened::new(Outcome::Blocked, reason)
        })
    }
}

type Moved<'a> = BTreeMap<(Option<&'a str>, &'a str, &'a str, &'a str), u64>;

fn moved<'a>(before: &'a [Counter], after: &'a [Counter]) -> Moved<'a> {
    let mut moved = BTreeMap::new();
    for Counter { group, direction, verdict, reason, packets } in after {
        let group = group.as_deref().filter(|group| !group.is_empty());
        *moved
            .entry((group, direction.as_str(), verdict.as_str(), reason.as_str()))
            .or_default() += packets;
    }
    for Counter { group, direction, verdict, reason, packets } in before {
        let group = group.as_deref().filter(|group| !group.is_empty());
        if let Some(moved) = moved.get_mut(&(group, direction, verdict, reason)) {
            *moved = u64::saturating_sub(*moved, *packets);
        }
    }
    moved.retain(|_, packets| *packets > 0);
    moved
}

impl Counts {
    /// The expected counter has to move, and nothing may be denied beside it. Passes are not exclusive: a relayed
    /// letter travels on, and a session's last packets may come after the letter was found.
    fn compare(&self, moved: &Moved<'_>) -> (bool, String) {
        let shown =
            |(&(group, direction, verdict, reason), packets): (&(_, &str, &str, &str), _)| {
                let group: Option<&str> = group;
                format!("{} {direction} {verdict}/{reason} +{packets}", group.unwrap_or("-"))
            };
        let denied = |verdict: &str| matches!(verdict, "drop" | "reject" | "would-drop");
        match *self {
            Self::Nothing => {
                let mut wrong =
                    moved.iter().filter(|((_, _, _, reason), _)| *reason != "not-syn").peekable();
                if wrong.peek().is_none() {
                    return (true, "none".to_owned());
                }
                (false, format!("none, but {}", wrong.map(shown).collect::<Vec<_>>().join(", ")))
            }
            Self::One { group, verdict, reason } => {
                let expected = |(g, direction, v, r): &(Option<&str>, &str, &str, &str)| {
                    (group.is_none() || *g == group)
                        && (*direction, *v, *r) == ("upstream", verdict, reason)
                };
                let mut hits = moved.iter().filter(|(key, _)| expected(key)).peekable();
                let wrong: Vec<_> =
                    moved.iter().filter(|(key, _)| !expected(key) && denied(key.2)).collect();
                if hits.peek().is_some() && wrong.is_empty() {
                    return (true, hits.map(shown).collect::<Vec<_>>().join(", "));
                }
                let seen: Vec<_> = moved.iter().map(shown).collect();
                (false, format!("not {verdict}/{reason}, but [{}]", seen.join(", ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(verdict: &str, reason: &str, packets: u64) -> Counter {
        Counter {
            group: Some("g".to_owned()),
            direction: "upstream".to_owned(),
            verdict: verdict.to_owned(),
            reason: reason.to_owned(),
            packets,
        }
    }

    #[test]
    fn the_expected_counter_and_no_denial_beside_it() {
        let before = [counter("pass", "relay", 3), counter("drop", "policy", 1)];
        let relay = Counts::One { group: Some("g"), verdict: "pass", reason: "relay" };

        let after = [counter("pass", "relay", 4), counter("drop", "policy", 1)];
        assert_eq!(
            relay.compare(&moved(&before, &after)),
            (true, "g upstream pass/relay +1".to_owned())
        );
        assert!(!Counts::Nothing.compare(&moved(&before, &after)).0);

        let after = [counter("pass", "relay", 4), counter("drop", "policy", 2)];
        assert!(!relay.compare(&moved(&before, &after)).0);
        assert!(!relay.compare(&moved(&before, &before)).0);
        assert!(Counts::Nothing.compare(&moved(&before, &before)).0);
    }

    #[test]
    fn every_row_of_the_table_is_there() {
        let mut numbers: Vec<u8> = rows().iter().map(|row| row.number).collect();
        numbers.dedup();
        assert_eq!(numbers, (1..=12).collect::<Vec<u8>>());
    }
}
