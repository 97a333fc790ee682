//! Servers whose network loses, repeats and reorders one packet in twenty: at the end, the table of
//! the daemon is that of the servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
    time::Instant,
};

use opb_userspace::radius::packet::request;

use super::*;

const SERVERS: usize = 8;
const REPORTS: usize = 1500;
/// Requests of one server that wait for their answers.
const WINDOW: usize = 48;
/// Seconds since 1970 by the clocks of the servers, which are wrong.
const CLOCK: u32 = 1_000_000_000;

fn number(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

/// A Start with further attributes.
pub(super) fn start(id: &str, identifier: u8, more: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let start = [(40, number(1)), (44, id.as_bytes().to_vec())];
    request(identifier, &[&start, more].concat(), SECRET.as_bytes())
}

/// A session in truth: its address, and when it began.
type Live = BTreeMap<String, (u8, u32)>;

struct Server {
    index: usize,
    random: fastrand::Rng,
    socket: UdpSocket,
    live: Live,
    clock: u32,
    /// By identifier: what was sent and is not answered.
    waiting: BTreeMap<u8, (Vec<u8>, Instant)>,
    made: usize,
    next: u8,
}

impl Server {
    fn run(mut self) -> Result<(usize, Live)> {
        self.socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let limit = Instant::now() + LIMIT;
        while self.made < REPORTS || !self.waiting.is_empty() {
            anyhow::ensure!(Instant::now() < limit, "{} wait for ever", self.waiting.len());
            while self.made < REPORTS && self.waiting.len() < WINDOW {
                let attributes = self.report();
                while self.waiting.contains_key(&self.next) {
                    self.next = self.next.wrapping_add(1);
                }
                let packet = request(self.next, &attributes, SECRET.as_bytes());
                self.send(&packet)?;
                self.waiting.insert(self.next, (packet, Instant::now()));
                self.next = self.next.wrapping_add(1);
                self.made += 1;
            }
            self.receive()?;
            let late = Duration::from_millis(400);
            let again: Vec<_> = (self.waiting.values_mut())
                .filter(|(_, sent)| sent.elapsed() > late)
                .map(|(packet, sent)| {
                    *sent = Instant::now();
                    packet.clone()
                })
                .collect();
            again.iter().try_for_each(|packet| self.send(packet))?;
        }
        Ok((self.index, self.live))
    }

    /// One in twenty is lost, one in twenty comes twice.
    fn send(&mut self, packet: &[u8]) -> Result<()> {
        let copies = match self.random.u8(..20) {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            self.socket.send(packet)?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let mut answer = [0; 64];
        while let Ok(length) = self.socket.recv(&mut answer) {
            anyhow::ensure!(length == 20 && answer[0] == 5, "{answer:?}");
            // Answers are lost, too.
            if self.random.u8(..20) != 0 {
                self.waiting.remove(&answer[1]);
            }
            if self.waiting.len() < WINDOW / 2 {
                break;
            }
        }
        Ok(())
    }

    /// What happens next at this server.
    fn report(&mut self) -> Vec<(u8, Vec<u8>)> {
        self.clock += 1;
        let taken: BTreeSet<u8> = self.live.values().map(|(host, _)| *host).collect();
        let free: Vec<u8> = (0..200).filter(|host| !taken.contains(host)).collect();
        let keys: Vec<_> = self.live.keys().cloned().collect();
        let (kind, id) = match (self.random.u8(..10), self.random.choice(&free)) {
            (0..5, Some(&host)) => {
                let id = format!("{}-{}", self.index, self.made);
                self.live.insert(id.clone(), (host, self.clock));
                (1, id)
            }
            (choice, _) => match self.random.choice(keys) {
                Some(id) if choice < 8 => (2, id),
                Some(id) => (3, id),
                None => (7, String::new()),
            },
        };
        let mut attributes = vec![
            (40, number(kind)),
            (32, format!("bras{}", self.index).into_bytes()),
            (55, number(CLOCK + self.clock)),
            (80, vec![0; 16]),
        ];
        if kind == 7 {
            return attributes;
        }
        attributes.push((44, id.clone().into_bytes()));
        let (host, began) = self.live[&id];
        attributes.push((46, number(self.clock - began)));
        attributes.push((8, vec![10, 0, self.index as u8, host]));
        attributes.push((11, b"opb:dyn".to_vec()));
        if kind == 2 {
            self.live.remove(&id);
        }
        attributes
    }
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn the_table_is_that_of_the_servers_at_last() -> Result<()> {
    let mut node = prepare("")?;
    node.run()?;
    let begin = Instant::now();
    let truth = thread::scope(|scope| {
        let servers: Vec<_> = (0..SERVERS)
            .map(|index| {
                let socket = node.gateway.enter(|| {
                    let socket = UdpSocket::bind("127.0.0.1:0")?;
                    socket.connect("127.0.0.1:1813")?;
                    Ok(socket)
                })?;
                let server = Server {
                    index,
                    random: fastrand::Rng::with_seed(index as u64),
                    socket,
                    live: Live::new(),
                    clock: 0,
                    waiting: BTreeMap::new(),
                    made: 0,
                    next: 0,
                };
                Ok(scope.spawn(move || server.run()))
            })
            .collect::<Result<_>>()?;
        let ends = servers.into_iter().map(|server| server.join().expect("no panic"));
        ends.collect::<Result<Vec<_>>>()
    });
    let truth = truth.with_context(|| node.said())?;
    let taken = begin.elapsed();
    println!("{} reports in {taken:?}", SERVERS * REPORTS);
    let expected: BTreeSet<_> = (truth.iter())
        .flat_map(|(index, live)| live.iter().map(move |(id, (host, _))| (index, id, host)))
        .map(|(index, id, host)| (id.clone(), format!("10.0.{index}.{host}/32")))
        .collect();
    let check = |node: &Node| -> Result<()> {
        let found = sessions(node, &[])?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
        let found = found.iter().map(|row| {
            anyhow::ensure!(row["addresses"].as_array().is_some_and(|it| it.len() == 1), "{row}");
            Ok((text(&row["id"])?, text(&row["addresses"][0])?))
        });
        let found: BTreeSet<_> = found.collect::<Result<_>>()?;
        assert_eq!(found, expected);
        let free = |(_, prefix): &&(String, String)| prefix.trim_end_matches("/32").to_owned();
        for address in expected.iter().take(20).map(|it| free(&it)) {
            assert_eq!(node.verdict(&address, MX)?, "drop policy", "{address}");
        }
        Ok(())
    };
    anyhow::ensure!(expected.len() > 100, "{}", expected.len());
    check(&node)?;
    assert!(result(&node, "repeated")? > 100 && result(&node, "recorded")? > 1000);
    node.kill()?;
    node.run()?;
    check(&node)?;
    node.stop()
}
