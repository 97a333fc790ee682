//! A real Prometheus scrapes a real node, and knows every metric that rules and dashboard name.

use std::{
    collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command,
};

use anyhow::{Context, Result, ensure};
use opb_lab::process::{self, Process};
use serde_json::Value;

use crate::node::{LIMIT, Node, OUTSIDE, Wire, syn};

fn contrib(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../contrib").join(name)
}

/// Every word that starts like one of our metrics.
fn metrics(text: &str) -> BTreeSet<String> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("opb_"))
        .map(str::to_owned)
        .collect()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn rules_and_dashboard_name_metrics_that_exist() -> Result<()> {
    let mut node = Node::prepare("auto", "suspect: {webhook: \"http://127.0.0.1:9/\"}\n")?;
    let secret = node.path("secret");
    fs::write(&secret, "a secret")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    let clients = format!("[{{address: 127.0.0.1, secret-file: {}}}]", secret.display());
    let radius = format!("{{listen: '127.0.0.1:1813', clients: {clients}}}");
    node.edit(|text| format!("{text}sessions: {{radius: {radius}}}\n"))?;
    node.run()?;
    Wire::open(&node.subscribers, "far0")?.send(&syn([203, 0, 113, 9].into(), OUTSIDE))?;
    let page = node.wait("a counted packet in the metrics", || {
        Ok(Some(node.get("/metrics")?).filter(|page| page.contains("opb_packets_total{")))
    })?;
    let file = node.path("metrics.txt");
    fs::write(&file, &page)?;
    let lint = "promtool check metrics < \"$1\"";
    process::check(Command::new("sh").args(["-c", lint, "sh"]).arg(&file))
        .with_context(|| page.clone())?;
    let rules = contrib("prometheus/opb.rules.yml").canonicalize()?;
    process::check(Command::new("promtool").args(["check", "rules"]).arg(&rules))?;

    let config = node.path("prometheus.yml");
    fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n  - job_name: opb\n    static_configs: [{{targets: ['127.0.0.1:9625']}}]\n",
            rules.display()
        ),
    )?;
    let mut command = node.gateway.command("prometheus");
    command.arg("--config.file").arg(&config).arg("--storage.tsdb.path").arg(node.path("tsdb"));
    command.arg("--web.listen-address=127.0.0.1:9090");
    let mut prometheus = Process::spawn("prometheus", &mut command, &node.path("prometheus.log"))?;
    let ask = |query: &str| -> Result<Value> {
        let mut curl = node.gateway.command("curl");
        curl.args(["-sS", "-G", "-m", "10", "http://127.0.0.1:9090/api/v1/query"]);
        let text = process::check(curl.arg("--data-urlencode").arg(format!("query={query}")))?;
        Ok(serde_json::from_str::<Value>(&text)?["data"]["result"].clone())
    };
    let is_there = |query: &str| {
        Ok(ask(query).is_ok_and(|found| found.as_array().is_some_and(|rows| !rows.is_empty())))
    };
    prometheus.wait_ready(LIMIT, || is_there("opb_packets_total{verdict=\"drop\"} == 1"))?;

    let dashboard = fs::read_to_string(contrib("grafana/opb.json"))?;
    serde_json::from_str::<Value>(&dashboard).context("the dashboard is JSON")?;
    let named = metrics(&(fs::read_to_string(&rules)? + &dashboard));
    ensure!(named.len() > 8, "{named:?}");
    for name in &named {
        ensure!(is_there(name)?, "nothing exports {name}");
    }
    // And the pages say of each metric what it is.
    let text = fs::read_to_string(contrib("../docs/metrics.md"))?;
    let documented: BTreeSet<_> = (text.lines())
        .filter_map(|line| line.strip_prefix("| `opb_")?.split('`').next())
        .map(|name| format!("opb_{name}"))
        .collect();
    let exported: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    ensure!(exported == documented, "{:?}", exported.symmetric_difference(&documented));
    // The interface is covered and the policy is in force: no alert of ours may be firing.
    ensure!(!is_there("ALERTS{alertstate=\"firing\",alertname=~\"Opb.*\"}")?);
    prometheus.stop()?;
    node.end()
}
