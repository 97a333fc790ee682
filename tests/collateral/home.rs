//! A subscriber's machine and one in the internet, both with Linux's own stack and every offload on.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use fastrand::Rng;
use opb_lab::{
    netns::Netns,
    packets::{Host, hosts},
    process,
};

pub(crate) const HOME: Host = hosts::DYNAMIC;
pub(crate) const OUTSIDE: Host = hosts::OUTSIDE;
pub(crate) const RELAY: Host = hosts::ISP;

const PATIENCE: Duration = Duration::from_secs(10);

/// ```text
///  home  line ── sub0  gateway  core0 ── eth0  internet
/// ```
pub(crate) struct Home {
    pub(crate) gateway: Netns,
    home: Netns,
    internet: Netns,
}

impl Home {
    pub(crate) fn build() -> Result<Self> {
        let netns = Self {
            home: Netns::new("home")?,
            gateway: Netns::new("gateway")?,
            internet: Netns::new("internet")?,
        };
        let Self { home, gateway, internet } = &netns;
        gateway.forward()?;
        cable((home, "line"), (gateway, "sub0"))?;
        cable((gateway, "core0"), (internet, "eth0"))?;
        gateway.address("sub0", "203.0.113.1/24")?;
        gateway.address("sub0", "2001:db8:1000:9::1/64")?;
        gateway.address("core0", "192.0.2.1/24")?;
        gateway.address("core0", "2001:db8:7000::1/64")?;
        home.address("line", &format!("{}/24", HOME.v4))?;
        home.address("line", &format!("{}/64", HOME.v6))?;
        home.default_route([203, 0, 113, 1].into())?;
        home.default_route("2001:db8:1000:9::1".parse()?)?;
        for host in [OUTSIDE, RELAY] {
            internet.address("eth0", &format!("{}/24", host.v4))?;
            internet.address("eth0", &format!("{}/64", host.v6))?;
            gateway.ip(&format!("route replace {} dev core0", host.v4))?;
            gateway.ip(&format!("-6 route replace {} dev core0", host.v6))?;
        }
        internet.default_route([192, 0, 2, 1].into())?;
        internet.default_route("2001:db8:7000::1".parse()?)?;
        Ok(netns)
    }

    /// Frames up to `mtu` on every cable.
    pub(crate) fn mtu(&self, mtu: u32) -> Result<()> {
        for (netns, name) in [
            (&self.home, "line"),
            (&self.gateway, "sub0"),
            (&self.gateway, "core0"),
            (&self.internet, "eth0"),
        ] {
            netns.ip(&format!("link set dev {name} mtu {mtu}"))?;
        }
        Ok(())
    }

    /// Everything that people do on a line and that is not mail to strangers.
    pub(crate) fn unharmed(&self) -> Result<()> {
        for family in [|host: Host| IpAddr::V4(host.v4), |host: Host| IpAddr::V6(host.v6)] {
            let (home, outside, relay) = (family(HOME), family(OUTSIDE), family(RELAY));
            let context = |what| move || format!("{what}, {home} and {outside}");
            self.transfer(&self.home, &self.internet, outside, 443, 12 << 20)
                .with_context(context("upload"))?;
            self.transfer(&self.internet, &self.home, home, 8080, 12 << 20)
                .with_context(context("a home server's upload"))?;
            self.transfer(&self.home, &self.internet, relay, 25, 4 << 20)
                .with_context(context("mail to the relay"))?;
            // Destination port 25 comes in, source port 25 goes out: neither rule is about it.
            self.transfer(&self.internet, &self.home, home, 25, 4 << 20)
                .with_context(context("mail to a home server"))?;
            self.transfer(&self.home, &self.internet, outside, 587, 1 << 20)
                .with_context(context("submission"))?;
            self.ftp(home, outside).with_context(context("FTP"))?;
            for port in [53, 25] {
                self.datagrams(outside, port).with_context(context("UDP in fragments"))?;
            }
            self.ping(outside).with_context(context("ping in fragments"))?;
        }
        Ok(())
    }

    /// Mail from home to a server that is not a relay.
    pub(crate) fn mail_to_strangers_is_stopped(&self) -> Result<()> {
        for address in [IpAddr::V4(OUTSIDE.v4), IpAddr::V6(OUTSIDE.v6)] {
            let listener = self.internet.enter(|| Ok(TcpListener::bind((address, 25))?))?;
            let target = SocketAddr::new(address, 25);
            let reached = self.home.enter(|| {
                // A retry of the SYN is due after a second; nobody waits for it.
                Ok(TcpStream::connect_timeout(&target, Duration::from_millis(300)).is_ok())
            })?;
            ensure!(!reached, "{target} is reached");
            drop(listener);
        }
        Ok(())
    }

    /// Bytes both ways over one connection: `length` up, and what came of them down again.
    fn transfer(
        &self,
        client: &Netns,
        server: &Netns,
        address: IpAddr,
        port: u16,
        length: usize,
    ) -> Result<()> {
        let listener = server.enter(|| Ok(TcpListener::bind((address, port))?))?;
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            receive(&stream, length, 25)?;
            send(&stream, length, 52)
        });
        let target = SocketAddr::new(address, port);
        let stream = client
            .enter(|| Ok(TcpStream::connect_timeout(&target, PATIENCE)?))
            .with_context(|| format!("cannot reach {target}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        send(&stream, length, 25)?;
        receive(&stream, length, 52)?;
        joined(server)
    }

    /// Active FTP: the server calls back from port 20 to a port that the control connection names.
    fn ftp(&self, home: IpAddr, outside: IpAddr) -> Result<()> {
        let control = self.internet.enter(|| Ok(TcpListener::bind((outside, 21))?))?;
        let internet = self.internet.clone();
        let server = thread::spawn(move || {
            let (mut control, peer) = control.accept()?;
            let mut port = [0; 2];
            control.read_exact(&mut port)?;
            let target = SocketAddr::new(peer.ip(), u16::from_be_bytes(port));
            let data = internet.enter(|| Ok(TcpStream::connect_timeout(&target, PATIENCE)?))?;
            send(&data, 1 << 20, 21)?;
            control.write_all(b"226")?;
            Ok(())
        });
        let target = SocketAddr::new(outside, 21);
        let (mut control, data) = self.home.enter(|| {
            Ok((TcpStream::connect_timeout(&target, PATIENCE)?, TcpListener::bind((home, 0))?))
        })?;
        control.set_read_timeout(Some(PATIENCE))?;
        control.write_all(&data.local_addr()?.port().to_be_bytes())?;
        receive(&data.accept()?.0, 1 << 20, 21)?;
        let mut reply = [0; 3];
        control.read_exact(&mut reply)?;
        ensure!(&reply == b"226");
        joined(server)
    }

    /// Datagrams of many sizes, whole and in up to 40 fragments, there and back.
    fn datagrams(&self, address: IpAddr, port: u16) -> Result<()> {
        let server = self.internet.enter(|| Ok(UdpSocket::bind((address, port))?))?;
        let client = self.home.enter(|| {
            let any = if address.is_ipv6() { "::" } else { "0.0.0.0" };
            let client = UdpSocket::bind((any, port))?;
            client.connect((address, port))?;
            Ok(client)
        })?;
        let mut buffer = vec![0; 65_536];
        for length in [1, 512, 1232, 1500, 4096, 30_000, 60_000] {
            let mut data = vec![0; length];
            Rng::with_seed(length as u64).fill(&mut data);
            for socket in [&server, &client] {
                socket.set_read_timeout(Some(PATIENCE))?;
            }
            client.send(&data)?;
            let (got, peer) = server.recv_from(&mut buffer).with_context(|| length.to_string())?;
            ensure!(buffer[..got] == data, "{length} bytes came up changed");
            server.send_to(&data, peer)?;
            let got = client.recv(&mut buffer).with_context(|| length.to_string())?;
            ensure!(buffer[..got] == data, "{length} bytes came down changed");
        }
        Ok(())
    }

    /// ping compares what comes back with what it sent.
    fn ping(&self, address: IpAddr) -> Result<()> {
        let arguments = ["-c", "2", "-i", "0.01", "-W", "5", "-s", "20000", "-p", "0019"];
        let mut command = self.home.command("ping");
        let said = process::check(command.args(arguments).arg(address.to_string()))?;
        ensure!(said.contains("2 received") && !said.contains("wrong data"), "{said}");
        Ok(())
    }
}

/// A cable with everything that the kernel offers on: segmentation and checksums left to the other end, GRO.
fn cable((left, left_name): (&Netns, &str), (right, right_name): (&Netns, &str)) -> Result<()> {
    left.ip(&format!(
        "link add name {left_name} type veth peer name {right_name} netns {}",
        right.path().display()
    ))?;
    for (netns, name) in [(left, left_name), (right, right_name)] {
        process::check(netns.command("ethtool").args(["-K", name, "gro", "on", "tso", "on"]))?;
        netns.ip(&format!("link set dev {name} up"))?;
    }
    Ok(())
}

fn send(mut stream: &TcpStream, length: usize, seed: u64) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    let mut block = vec![0; 64 << 10];
    for _ in 0..length / block.len() {
        random.fill(&mut block);
        stream.write_all(&block)?;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

/// The very bytes that [`send`] sends, and no more.
fn receive(mut stream: &TcpStream, length: usize, seed: u64) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    let (mut expected, mut got) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    for block in 0..length / expected.len() {
        random.fill(&mut expected);
        stream.read_exact(&mut got).with_context(|| format!("block {block}"))?;
        ensure!(got == expected, "block {block} came changed");
    }
    ensure!(stream.read(&mut got)? == 0, "more came than was sent");
    Ok(())
}

fn joined(thread: thread::JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("the server panicked"))?
}
