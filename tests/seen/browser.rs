//! The status page in a real browser.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use fantoccini::{
    Client, ClientBuilder,
    error::CmdError,
    key::Key,
    wd::{Capabilities, WebDriverCompatibleCommand},
};
use hyper::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use opb_lab::process::{self, Process};
use serde_json::{Value, json};
use tokio::runtime::{self, Runtime};
use url::{ParseError, Url};

use crate::node::{LIMIT, Node, OUTSIDE, Wire, syn};

const PAGE: &str = "http://127.0.0.1:9625/";
const DRIVER: &str = "http://127.0.0.1:9515";

/// Chromium in the namespace of the node, driven over WebDriver.
struct Browser<'a> {
    node: &'a Node,
    driver: Process,
    /// Runs nothing but within [`Browser::call`], so that all connections start in the namespace.
    runtime: Runtime,
    client: Client,
}

/// A command of chromedriver beyond the standard: the end of its path, and its body.
#[derive(Debug)]
struct Extension(&'static str, Value);

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.1.to_string()))
    }
}

impl<'a> Browser<'a> {
    /// Opens a window of the size of a phone's screen, or a desk's.
    fn start(node: &'a Node, width: u32, height: u32) -> Result<Self> {
        let mut command = node.gateway.command("chromedriver");
        command.arg("--port=9515").env("HOME", node.directory());
        let mut driver = Process::spawn("chromedriver", &mut command, &node.path("driver.log"))?;
        let listens = || Ok(std::net::TcpStream::connect("127.0.0.1:9515").is_ok());
        driver.wait_ready(LIMIT, || node.gateway.enter(listens))?;
        let profile = node.path(&format!("profile-{width}"));
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let mut metrics = json!({"width": width, "height": height, "pixelRatio": 1.0});
        metrics["mobile"] = (width < 600).into();
        metrics["touch"] = false.into();
        let options = json!({"args": arguments, "mobileEmulation": {"deviceMetrics": metrics}});
        let wanted = Capabilities::from_iter([
            ("goog:chromeOptions".to_owned(), options),
            ("goog:loggingPrefs".to_owned(), json!({"browser": "ALL"})),
        ]);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let client = node.gateway.enter(|| {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            Ok(runtime.block_on(builder.capabilities(wanted).connect(DRIVER))?)
        })?;
        Ok(Self { node, driver, runtime, client })
    }

    /// Waits for a command of WebDriver.
    fn call<T: Send>(
        &self,
        command: impl Future<Output = Result<T, CmdError>> + Send,
    ) -> Result<T> {
        self.node.gateway.enter(|| {
            let answer = async { tokio::time::timeout(LIMIT, command).await };
            Ok(self.runtime.block_on(answer).context("no answer from chromedriver")??)
        })
    }

    fn open(&self, url: &str) -> Result<()> {
        self.call(self.client.goto(url))
    }

    /// The value of a JavaScript expression.
    fn value(&self, expression: &str) -> Result<Value> {
        self.call(self.client.execute(&format!("return {expression};"), Vec::new()))
    }

    /// The answer to a command of the Chrome DevTools protocol.
    fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        let ask = json!({"cmd": command, "params": parameters});
        self.call(self.client.issue_cmd(Extension("goog/cdp/execute", ask)))
    }

    /// What a screen reader reads out: `role: name` of everything on the page.
    fn accessible(&self) -> Result<Vec<String>> {
        let tree = self.devtools("Accessibility.getFullAXTree", &json!({}))?;
        let nodes = tree["nodes"].as_array().context("a tree")?;
        let word = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        Ok((nodes.iter().filter(|node| node["ignored"] != true))
            .map(|node| format!("{}: {}", word(&node["role"]), word(&node["name"])))
            .collect())
    }

    fn text(&self, selector: &str) -> Result<String> {
        let text = self.value(&format!("document.querySelector({selector:?})?.innerText ?? ''"))?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Types into the element that has the focus.
    fn press(&self, keys: &str) -> Result<()> {
        self.call(async { self.client.active_element().await?.send_keys(keys).await })
    }

    /// Writes a picture of the page down to `height` into the directory that `OPB_SCREENSHOTS`
    /// names, for the documentation.
    fn screenshot(&self, name: &str, height: &Value) -> Result<()> {
        let (width, top) = (self.value("innerWidth")?, self.value("scrollY")?);
        let clip = json!({"x": 0, "y": top, "width": width, "height": height, "scale": 1});
        let how = json!({"captureBeyondViewport": true, "clip": clip});
        let image = self.devtools("Page.captureScreenshot", &how)?;
        let image = image["data"].as_str().context("a picture")?;
        ensure!(image.len() > 1000, "an empty picture");
        if let Some(directory) = std::env::var_os("OPB_SCREENSHOTS") {
            let encoded = self.node.path("screenshot.base64");
            fs::write(&encoded, image)?;
            let decode = "base64 -d < \"$1\" > \"$2\"";
            let file = Path::new(&directory).join(name);
            let mut command = std::process::Command::new("sh");
            process::check(command.args(["-c", decode, "sh"]).arg(encoded).arg(file))?;
        }
        Ok(())
    }

    /// Ends the browser. Fails if the browser complained about the page, of its strict content
    /// policy for example.
    fn end(mut self) -> Result<()> {
        let ask = Extension("se/log", json!({"type": "browser"}));
        let log = self.call(self.client.issue_cmd(ask))?;
        let complaints = log.as_array().cloned().unwrap_or_default();
        ensure!(complaints.is_empty(), "{complaints:?}");
        self.call(self.client.clone().close())?;
        self.driver.stop()?;
        Ok(())
    }
}

/// Denied mail of three subscribers, and 120 packets that pass. Waits until the page has `passed`
/// of these in all.
fn traffic(node: &Node, passed: u64) -> Result<()> {
    let wire = Wire::open(&node.subscribers, "far0")?;
    for round in 0..120u8 {
        for subscriber in [3, 4, 130].iter().filter(|it| round % **it % 3 == 0) {
            wire.send(&syn([203, 0, 113, *subscriber].into(), [192, 0, 2, round % 7].into()))?;
        }
        wire.send(&syn([203, 0, 113, 9].into(), [198, 51, 100, 25].into()))?;
    }
    node.wait("the traffic on the page", || {
        Ok(node.get("/?lang=en")?.contains(&format!("passed {passed},")).then_some(()))
    })
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn the_page_answers_on_a_desk() -> Result<()> {
    let node = Node::start("auto", "")?;
    traffic(&node, 120)?;
    let browser = Browser::start(&node, 1100, 900)?;
    browser.open(&format!("{PAGE}?lang=en"))?;
    let all = browser.text("main")?;
    for expected in ["Enforcing", "203.0.113.3", "drop (policy)", "dynamic", "sub0", "would-drop"] {
        ensure!(all.contains(expected), "no {expected} in {all}");
    }
    let chart = browser.value("document.querySelector('figure svg').getAttribute('aria-label')")?;
    ensure!(chart.as_str().is_some_and(|text| text.contains("passed 120")), "{chart}");

    // A screen reader finds everything by its name.
    let told = browser.accessible()?;
    for expected in [
        "heading: Outbound port 25 blocking",
        "textbox: Customer's IP address",
        "textbox: Mail server's IP address",
        "textbox: Port",
        "button: Ask",
        "button: Pause updates",
        "heading: Most denied customers",
        "columnheader: Denied packets",
        "region: Recent events",
        "region: Counters by interface",
        "cell: sub0",
        "image: Packets a minute to filtered ports over the last hour",
    ] {
        ensure!(told.iter().any(|it| it.starts_with(expected)), "no {expected} in {told:#?}");
    }

    // With the keyboard alone: the language link, then the form.
    for keys in [&*Key::Tab, &*Key::Tab, "203.0.113.9", &*Key::Tab, "192.0.2.25", &*Key::Enter] {
        browser.press(keys)?;
    }
    let answer = node.wait("an answer", || {
        Ok(Some(browser.text(".answer")?).filter(|answer| !answer.is_empty()))
    })?;
    ensure!(answer.contains("blocked") && answer.contains("587"), "{answer}");
    ensure!(answer.contains("What to tell the customer"), "{answer}");
    let whole = "document.documentElement.scrollHeight";
    browser.screenshot("status-page.png", &browser.value(whole)?)?;

    // It changes by itself.
    let before = browser.text("#live")?;
    traffic(&node, 240)?;
    Wire::open(&node.subscribers, "far0")?.send(&syn([203, 0, 113, 99].into(), OUTSIDE))?;
    node.wait("the page to change", || {
        let now = browser.text("#live")?;
        Ok((now != before && now.contains("203.0.113.99")).then_some(()))
    })?;

    browser.open(&format!("{PAGE}?lang=ja&src=203.0.113.9&dst=192.0.2.25&dport=25"))?;
    let all = browser.text("main")?;
    for expected in ["遮断されます", "規制中", "遮断の多いお客さま", "方向", "203.0.113.99"]
    {
        ensure!(all.contains(expected), "no {expected} in {all}");
    }
    browser.screenshot("status-page-ja.png", &browser.value(whole)?)?;
    browser.end()?;
    node.end()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn the_page_answers_on_a_phone_in_japanese() -> Result<()> {
    let node = Node::start("auto", "")?;
    traffic(&node, 120)?;
    let browser = Browser::start(&node, 360, 740)?;
    browser.open(&format!("{PAGE}?lang=ja&src=203.0.113.9&dst=198.51.100.25&dport=25"))?;
    ensure!(browser.value("document.documentElement.lang")? == "ja");
    let answer = browser.text(".answer")?;
    ensure!(answer.contains("通過します") && answer.contains("お客さまへのご案内"), "{answer}");
    let width = browser.value("document.documentElement.scrollWidth")?;
    ensure!(width.as_u64().is_some_and(|width| width <= 360), "{width} wide: scrolls sideways");
    // Everything that takes input has a name, and every region a heading.
    let nameless = "[...document.querySelectorAll('input:not([type=hidden]), button')].filter(it => !(it.labels?.length || it.innerText)).length";
    ensure!(browser.value(nameless)? == 0);
    let dangling = "[...document.querySelectorAll('[aria-labelledby]')].filter(it => !document.getElementById(it.getAttribute('aria-labelledby'))).length";
    ensure!(browser.value(dangling)? == 0);
    browser.screenshot("status-page-phone.png", &browser.value("innerHeight")?)?;

    browser.open(&format!("{PAGE}?lang=en"))?;
    let width = browser.value("document.documentElement.scrollWidth")?;
    ensure!(width.as_u64().is_some_and(|width| width <= 360), "{width} wide: scrolls sideways");
    browser.value("document.getElementById('hour').scrollIntoView()")?;
    browser.screenshot("status-page-phone-en.png", &browser.value("innerHeight")?)?;

    browser.open(&format!("{PAGE}?lang=ja&src=nonsense&dst=198.51.100.25&dport=25"))?;
    let answer = browser.text("[role=alert]")?;
    ensure!(answer.contains("お客さまの IP アドレスが正しくありません"), "{answer}");
    // What was typed comes back as text, whatever it was.
    browser.open(&format!("{PAGE}?lang=en&src=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&dst=x"))?;
    ensure!(browser.value("document.querySelectorAll('script').length")? == 1);
    browser.end()?;
    node.end()
}
