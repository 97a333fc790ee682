//! Whom the read-only listener answers.

use anyhow::{Result, ensure};
use opb_lab::process;

use crate::node::Node;

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn no_foreign_name_reads_what_the_listener_says() -> Result<()> {
    let node = Node::start("auto", "http-names: [noc.example.net]\n")?;
    let ask = |host: &str, path: &str| {
        let mut curl = node.gateway.command("curl");
        curl.args(["-sS", "-i", "-m", "10", "-H", &format!("Host: {host}")]);
        process::check(curl.arg(format!("http://127.0.0.1:9625{path}")))
    };
    for path in ["/", "/live", "/metrics", "/healthz"] {
        // What a browser sends that was told that this name means 127.0.0.1.
        let answer = ask("rebound.example:9625", path)?;
        ensure!(answer.starts_with("HTTP/1.1 421 ") && answer.contains("http-names"), "{answer}");
        ensure!(!answer.contains("enforcing") && !answer.contains("opb_"), "{answer}");
        for host in ["noc.example.net", "127.0.0.1:9625", "[::1]:9625", "localhost:9625"] {
            let answer = ask(host, path)?;
            ensure!(answer.starts_with("HTTP/1.1 200 "), "{host}{path}: {answer}");
            ensure!(answer.contains("content-security-policy: default-src 'none'"), "{answer}");
        }
    }
    node.end()
}
