//! The status page in a real browser.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use opb_lab::process::{self, Process};
use serde_json::{Value, json};

use crate::node::{LIMIT, Node, OUTSIDE, Wire, syn};

const PAGE: &str = "http://127.0.0.1:9625/";
/// How WebDriver names an element in JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
const ENTER: &str = "\u{e007}";
const TAB: &str = "\u{e004}";

/// Chromium, driven over WebDriver, in the namespace of the node.
struct Browser<'a> {
    node: &'a Node,
    driver: Process,
    session: String,
}

impl<'a> Browser<'a> {
    /// A phone's screen, or a desk's.
    fn start(node: &'a Node, width: u32, height: u32) -> Result<Self> {
        let mut command = node.gateway.command("chromedriver");
        command.arg("--port=9515").env("HOME", node.directory());
        let mut driver = Process::spawn("chromedriver", &mut command, &node.path("driver.log"))?;
        driver.wait_ready(LIMIT, || Ok(call(node, "GET", "/status", &Value::Null).is_ok()))?;
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
        let options = json!({
            "args": arguments,
            "mobileEmulation": {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.0, "mobile": width < 600, "touch": false}},
        });
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = call(node, "POST", "/session", &wanted)?;
        let session = session["sessionId"].as_str().context("a session")?.to_owned();
        Ok(Self { node, driver, session })
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        call(self.node, method, &format!("/session/{}{path}", self.session), body)
    }

    fn open(&self, url: &str) -> Result<()> {
        self.call("POST", "/url", &json!({ "url": url })).map(drop)
    }

    /// The value of a JavaScript expression.
    fn value(&self, expression: &str) -> Result<Value> {
        let script = format!("return {expression};");
        self.call("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// What a screen reader is told: `role: name` of everything on the page.
    fn accessible(&self) -> Result<Vec<String>> {
        let ask = json!({"cmd": "Accessibility.getFullAXTree", "params": {}});
        let tree = self.call("POST", "/goog/cdp/execute", &ask)?;
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

    /// Presses keys, wherever the focus is.
    fn press(&self, keys: &str) -> Result<()> {
        let active = self.call("GET", "/element/active", &Value::Null)?;
        let element = active[ELEMENT].as_str().context("an element has the focus")?;
        self.call("POST", &format!("/element/{element}/value"), &json!({ "text": keys })).map(drop)
    }

    /// The page down to `height`, and into the directory that `OPB_SCREENSHOTS` names, for the documentation.
    fn screenshot(&self, name: &str, height: &Value) -> Result<()> {
        let (width, top) = (self.value("innerWidth")?, self.value("scrollY")?);
        let clip = json!({"x": 0, "y": top, "width": width, "height": height, "scale": 1});
        let how = json!({"captureBeyondViewport": true, "clip": clip});
        let ask = json!({"cmd": "Page.captureScreenshot", "params": how});
        let image = self.call("POST", "/goog/cdp/execute", &ask)?;
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

    /// Ends the browser. What it complained of in the meantime is a fault of the page: the strict content policy
    /// among them.
    fn end(mut self) -> Result<()> {
        let log = self.call("POST", "/se/log", &json!({"type": "browser"}))?;
        let complaints = log.as_array().cloned().unwrap_or_default();
        ensure!(complaints.is_empty(), "{complaints:?}");
        self.call("DELETE", "", &Value::Null)?;
        self.driver.stop()?;
        Ok(())
    }
}

fn call(node: &Node, method: &str, path: &str, body: &Value) -> Result<Value> {
    let mut curl = node.gateway.command("curl");
    curl.args(["-sS", "-m", "60", "-X", method, &format!("http://127.0.0.1:9515{path}")]);
    if !body.is_null() {
        curl.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
    }
    let output = process::run(&mut curl, Duration::from_secs(70))?;
    ensure!(output.status.success(), "{method} {path}: {}", output.stderr);
    let answer: Value = serde_json::from_str(&output.stdout)?;
    if answer["value"]["error"].is_string() {
        bail!("{method} {path}: {}", answer["value"]["message"]);
    }
    Ok(answer["value"].clone())
}

/// Denied mail of three subscribers, and 120 packets that pass. Waits until the page has `passed` of these in all.
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
    browser.press(TAB)?;
    browser.press(TAB)?;
    browser.press("203.0.113.9")?;
    browser.press(TAB)?;
    browser.press("192.0.2.25")?;
    browser.press(ENTER)?;
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
    ensure!(answer.contains("入力内容を確認"), "{answer}");
    // What was typed comes back as text, whatever it was.
    browser.open(&format!("{PAGE}?lang=en&src=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&dst=x"))?;
    ensure!(browser.value("document.querySelectorAll('script').length")? == 1);
    browser.end()?;
    node.end()
}
