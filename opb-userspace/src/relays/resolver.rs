//! Asks name servers for the addresses of hosts, and again when the answers expire.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Record, RecordType},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::warn;

use super::{DnsAnswer, HostError};

/// The shortest interval between two questions, however short the TTL is.
const SHORTEST: Duration = Duration::from_secs(5);
/// The longest interval, however long the TTL is.
const LONGEST: Duration = Duration::from_secs(3600);
/// The most addresses of a family in one answer.
pub const MOST: usize = 32;
/// The most questions at the same time of [`resolve_once`].
const TOGETHER: usize = 64;
/// The interval after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// The names to resolve, and the servers to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    pub names: BTreeSet<String>,
    /// If empty, the servers of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
}

/// Resolves the names of the newest task, and sends the answers, until the other end is gone.
pub async fn follow(
    mut tasks: watch::Receiver<Task>,
    answers: mpsc::UnboundedSender<(String, DnsAnswer)>,
) {
    let mut task = Task::default();
    let mut resolver = None;
    let mut due: BTreeMap<String, Instant> = BTreeMap::new();
    let mut asked: JoinSet<(String, DnsAnswer, Duration)> = JoinSet::new();
    loop {
        let newest = tasks.borrow_and_update().clone();
        if newest != task || (resolver.is_none() && !newest.names.is_empty()) {
            if newest.servers != task.servers || resolver.is_none() {
                // A new connection pool; servers asked before may still answer.
                resolver = make(&newest.servers);
            }
            let now = Instant::now();
            due.retain(|name, _| newest.names.contains(name));
            for name in &newest.names {
                due.entry(name.clone()).or_insert(now);
            }
            task = newest;
        }
        let now = Instant::now();
        for (name, time) in due.iter_mut().filter(|(_, time)| **time <= now) {
            // The answer sets another time.
            *time = now + LONGEST;
            if let Some(resolver) = resolver.clone() {
                let name = name.clone();
                asked.spawn(async move { ask(&resolver, name).await });
            } else {
                *time = now + RETRY;
            }
        }
        let next = due.values().min().copied().unwrap_or(now + LONGEST);
        tokio::select! {
            changed = tasks.changed() => if changed.is_err() { return },
            Some(Ok((name, answer, rest))) = asked.join_next() => {
                if let Some(time) = due.get_mut(&name) {
                    *time = Instant::now() + rest;
                    if answers.send((name, answer)).is_err() {
                        return;
                    }
                }
            }
            () = sleep_until(next) => {}
        }
    }
}

/// Asks for each name once. All questions together take at most `limit`.
pub fn resolve_once(task: Task, limit: Duration) -> io::Result<BTreeMap<String, DnsAnswer>> {
    let Task { names, servers } = task;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let resolver = build(&servers).map_err(io::Error::other)?;
        let until = Instant::now() + limit;
        let mut waiting = names.clone().into_iter();
        let (mut asked, mut answers) = (JoinSet::new(), BTreeMap::new());
        loop {
            while asked.len() < TOGETHER
                && let Some(name) = waiting.next()
            {
                let resolver = resolver.clone();
                asked.spawn(async move { ask(&resolver, name).await });
            }
            match timeout_at(until, asked.join_next()).await {
                Ok(Some(Ok((name, answer, _)))) => drop(answers.insert(name, answer)),
                Ok(Some(Err(_))) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let late = || Err(HostError::Lookup(format!("no answer within {} s", limit.as_secs())));
        for name in names {
            answers.entry(name).or_insert_with(|| DnsAnswer { ipv4: late(), ipv6: late() });
        }
        Ok(answers)
    })
}

fn make(servers: &[SocketAddr]) -> Option<TokioResolver> {
    build(servers).map_err(|error| warn!("relay hosts cannot be resolved: {error}")).ok()
}

fn build(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let builder = if servers.is_empty() {
        TokioResolver::builder_tokio()
    } else {
        let servers = servers.iter().map(name_server).collect();
        let config = ResolverConfig::from_name_servers(servers);
        Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
    };
    builder.and_then(|mut builder| {
        // This module caches the answers, with its own rules.
        builder.options_mut().cache_size = 0;
        builder.build()
    })
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

/// The answer, and the time until the next question.
async fn ask(resolver: &TokioResolver, name: String) -> (String, DnsAnswer, Duration) {
    // With the dot, no search domain is tried: a policy means the same on every node.
    let full = format!("{}.", name.trim_end_matches('.'));
    let (ipv4, ipv6) = tokio::join!(
        family(resolver, &full, RecordType::A),
        family(resolver, &full, RecordType::AAAA)
    );
    let rest = match (&ipv4, &ipv6) {
        (Ok((a, _)), Ok((b, _))) if a.is_empty() && b.is_empty() => RETRY,
        _ => hold(&ipv4).min(hold(&ipv6)),
    };
    let addresses = |(addresses, _)| addresses;
    (name, DnsAnswer { ipv4: ipv4.map(addresses), ipv6: ipv6.map(addresses) }, rest)
}

/// How long one family's answer may be used.
fn hold(result: &Result<(Vec<IpAddr>, Duration), HostError>) -> Duration {
    match result {
        Ok((_, ttl)) => (*ttl).clamp(SHORTEST, LONGEST),
        Err(_) => RETRY,
    }
}

async fn family(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
) -> Result<(Vec<IpAddr>, Duration), HostError> {
    let lookup = match resolver.lookup(name, kind).await {
        Ok(lookup) => lookup,
        Err(error) if error.is_no_records_found() => return no_records(&error),
        Err(error) => return Err(HostError::Lookup(error.to_string())),
    };
    Ok(collect(name, lookup.answers()))
}

/// The addresses in `answers`, and their TTL.
#[must_use]
pub fn collect(name: &str, answers: &[Record]) -> (Vec<IpAddr>, Duration) {
    let mut addresses: Vec<_> = answers.iter().filter_map(|record| record.data.ip_addr()).collect();
    if addresses.len() > MOST {
        // Servers rotate the order; sorted, the same ones are taken each time.
        addresses.sort_unstable();
        addresses.dedup();
        let all = addresses.len();
        if all > MOST {
            warn!("relay host {name} has {all} addresses of one kind: {MOST} are used");
        }
        addresses.truncate(MOST);
    }
    let ttl = answers.iter().map(|record| record.ttl).min().unwrap_or(0);
    (addresses, Duration::from_secs(ttl.into()))
}

/// An answer without records of this family is an answer; a refusal or failure of the server is
/// not.
fn no_records(error: &NetError) -> Result<(Vec<IpAddr>, Duration), HostError> {
    use hickory_resolver::{net::DnsError, proto::op::ResponseCode};
    match error {
        NetError::Dns(DnsError::NoRecordsFound(found))
            if ![ResponseCode::NoError, ResponseCode::NXDomain].contains(&found.response_code) =>
        {
            Err(HostError::Lookup(error.to_string()))
        }
        _ => Ok((Vec::new(), LONGEST)),
    }
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
