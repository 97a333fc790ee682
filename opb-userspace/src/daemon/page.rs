//! The status page, for the network's operators and the support desk. It is complete without
//! scripts; with them, its live part is refreshed every few seconds.

use std::sync::Arc;

use maud::{DOCTYPE, Markup, html};
use opb_common::outcome::Verdict;

use super::{form::FormError, i18n::Texts};
use crate::api::{
    events::Event, events::Kind, explain::Explanation, status::State, status::Status,
};
use crate::{
    explain::QueryError,
    kernel::CounterRow,
    telemetry::{Telemetry, history::Minute},
    text,
};

/// The most rows of a table.
const ROWS: usize = 15;

/// The content of the form.
pub(super) struct Question<'a> {
    pub(super) src: &'a str,
    pub(super) dst: &'a str,
    pub(super) dport: &'a str,
}

/// The result below the form.
pub(super) enum PageResult {
    Unasked,
    Invalid(FormError),
    /// The enforcer has died.
    Unavailable,
    /// The daemon refused the question.
    Failed(QueryError),
    Explained(Box<Explanation>),
}

pub(super) fn whole(
    texts: &Texts,
    status: Option<&Status>,
    telemetry: &Telemetry,
    question: &Question<'_>,
    answer: &PageResult,
) -> Markup {
    html! {
        (DOCTYPE)
        html lang=(texts.lang) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "opb: " (texts.title) }
                link rel="stylesheet" href="/style.css";
                script src="/page.js" defer {}
            }
            body {
                header {
                    h1 { (texts.title) }
                    @let (lang, name) = texts.other;
                    a href={ "/?lang=" (lang) } lang=(lang) hreflang=(lang) { (name) }
                }
                main {
                    (form(texts, question))
                    (answered(texts, question, answer))
                    p {
                        button type="button" id="pause" data-resume=(texts.resume) hidden { (texts.pause) }
                    }
                    div id="live" data-lang=(texts.lang) { (live(texts, status, telemetry)) }
                }
            }
        }
    }
}

/// The part of the page that its script refreshes.
pub(super) fn live(texts: &Texts, status: Option<&Status>, telemetry: &Telemetry) -> Markup {
    html! {
        (state(texts, status))
        (chart(texts, &telemetry.hour()))
        (talkers(texts, telemetry))
        (events(texts, &telemetry.newest_events(ROWS)))
        (counters(texts, telemetry))
        (status.map(|status| setup(texts, status)).unwrap_or_default())
    }
}

fn form(texts: &Texts, question: &Question<'_>) -> Markup {
    let port = if question.dport.is_empty() { "25" } else { question.dport };
    html! {
        section aria-labelledby="why" {
            h2 id="why" { (texts.form_title) }
            p { (texts.form_intro) }
            form action="/" method="get" {
                input type="hidden" name="lang" value=(texts.lang);
                @let addresses = [
                    (texts.source, "src", question.src),
                    (texts.destination, "dst", question.dst),
                ];
                @for (label, name, value) in addresses {
                    label {
                        (label)
                        input name=(name) value=(value) required autocomplete="off" spellcheck="false";
                    }
                }
                label class="short" {
                    (texts.port)
                    input name="dport" value=(port) inputmode="numeric" autocomplete="off";
                }
                button type="submit" { (texts.ask) }
            }
        }
    }
}

fn answered(texts: &Texts, question: &Question<'_>, answer: &PageResult) -> Markup {
    let explained = match answer {
        PageResult::Unasked => return Markup::default(),
        PageResult::Invalid(error) => return alert(texts.form_error(*error)),
        PageResult::Unavailable => return alert(texts.unavailable),
        PageResult::Failed(error) => return alert(&format!("{} {error}", texts.failed)),
        PageResult::Explained(explained) => explained,
    };
    let [sentence, advice] = texts.answer(explained, question.dport.trim().parse().unwrap_or(25));
    let others = explained.other_rules.as_ref();
    let others =
        others.map_or((&[][..], &[][..], 0), |it| (&it.rules[..], &it.unknown[..], it.more));
    let denied = explained.verdict != Verdict::Pass || !others.0.is_empty();
    html! {
        section class={ "answer " (if denied { "warn" } else { "good" }) } role="status" aria-labelledby="answer" {
            h2 id="answer" { (text::line(question.src)) " → " (text::line(question.dst)) }
            p { strong { (sentence) } }
            h3 { (texts.advice) }
            p { (advice) }
            details {
                summary { (texts.steps) " (" code { (explained.verdict.name()) "/" (explained.reason.name()) } ")" }
                ol lang="en" { @for step in &explained.chain { li { (text::line(step)) } } }
            }
            (listed(texts.other_rules, others.0, others.2))
            (listed(texts.other_rules_unknown, others.1, 0))
        }
    }
}

/// A list that can be opened; nothing if it is empty. `more` is the number of items left out.
fn listed(title: &str, items: &[String], more: usize) -> Markup {
    html! {
        @if !items.is_empty() {
            details {
                summary { (title) " (" (items.len() + more) ")" }
                ul lang="en" {
                    @for item in items { li { (text::line(item)) } }
                    @if more > 0 { li { "…" } }
                }
            }
        }
    }
}

fn alert(text: &str) -> Markup {
    html! { p class="answer warn" role="alert" { (text::line(text)) } }
}

fn state(texts: &Texts, status: Option<&Status>) -> Markup {
    let Some(status) = status else { return html! { p class="state warn" { (texts.starting) } } };
    let (class, text) = match status.state {
        State::Enforcing => ("good", texts.enforcing),
        State::Degraded => ("warn", texts.degraded),
    };
    html! {
        p class={ "state " (class) } { (text) }
        @if !status.problems.is_empty() || !status.warnings.is_empty() {
            ul lang="en" {
                @for problem in &status.problems { li class="warn" { (text::lines(&problem.text)) } }
                @for warning in &status.warnings { li { (text::lines(warning)) } }
            }
        }
    }
}

/// Bars in SVG. The style sheet has the colours. The text has the numbers, for screen readers.
fn chart(texts: &Texts, hour: &[Minute]) -> Markup {
    const HEIGHT: u64 = 100;
    let total = |minute: &Minute| minute.passed + minute.denied + minute.watched;
    let most = hour.iter().map(total).max().unwrap_or(0).max(1);
    let sums = hour.iter().fold([0; 3], |sums, minute| {
        [sums[0] + minute.passed, sums[1] + minute.denied, sums[2] + minute.watched]
    });
    let height = |packets: u64| packets as f64 * HEIGHT as f64 / most as f64;
    let summary = format!(
        "{}: {}",
        texts.chart,
        (texts.series.iter().zip(sums))
            .map(|(name, sum)| format!("{name} {sum}"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    html! {
        section aria-labelledby="hour" {
            h2 id="hour" { (texts.hour) }
            figure {
                svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-label=(summary) {
                    @for (index, minute) in hour.iter().enumerate() {
                        @let x = index * 10;
                        @let [denied, watched, passed] =
                            [minute.denied, minute.watched, minute.passed].map(height);
                        @let bars = [
                            ("denied", denied, denied),
                            ("watched", watched, denied + watched),
                            ("passed", passed, denied + watched + passed),
                        ];
                        @for (class, height, top) in bars {
                            @let (y, height) = (format!("{:.1}", 100.0 - top), format!("{height:.1}"));
                            rect class=(class) x=(x) y=(y) width="9" height=(height) {}
                        }
                    }
                }
                figcaption {
                    span class="axis" { span { (texts.minutes_ago) } span { (texts.now) } }
                    span class="legend" {
                        @let classes = ["passed", "denied", "watched"];
                        @for ((name, sum), class) in texts.series.iter().zip(sums).zip(classes) {
                            span {
                                svg class="key" viewBox="0 0 10 10" aria-hidden="true" {
                                    rect class=(class) width="10" height="10" {}
                                }
                                (name) ": " (sum) " "
                            }
                        }
                    }
                }
            }
        }
    }
}

fn talkers(texts: &Texts, telemetry: &Telemetry) -> Markup {
    let rows = telemetry.top(ROWS, None).into_iter().map(|row| {
        let last = format!("{:.0}", row.last);
        [
            row.subscriber,
            row.group,
            row.direction.to_string(),
            row.packets.to_string(),
            format!("{:.1}", row.rate),
            row.peers.to_string(),
            last,
        ]
    });
    table("talkers", texts.talkers, texts.none, texts.talker_columns, rows.collect())
}

fn events(texts: &Texts, events: &[Arc<Event>]) -> Markup {
    let rows = events.iter().map(|event| {
        let verdict = match event.kind {
            Kind::Denied => event.verdict_and_reason(),
            Kind::Suspect => format!("{} ({})", texts.suspect, event.packets.unwrap_or_default()),
            Kind::Relay => format!("{} {}", texts.relay_host, event.host),
            Kind::Change => {
                let by = event.by.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("{} ({by}): {}", event.action, event.outcome)
            }
        };
        let addresses = event.addresses.iter().map(ToString::to_string);
        let peer = Some(event.peer.clone()).filter(|peer| !peer.is_empty());
        [
            format!("{:.0}", event.time),
            event.subscriber.clone(),
            peer.into_iter().chain(addresses).collect::<Vec<_>>().join(", "),
            event.group.clone(),
            verdict,
        ]
    });
    table("events", texts.events, texts.none, texts.event_columns, rows.collect())
}

fn counters(texts: &Texts, telemetry: &Telemetry) -> Markup {
    let totals = telemetry.totals();
    let cells = |row: CounterRow| {
        let of = row.of.unwrap_or_else(|| "-".to_owned());
        let [direction, verdict, reason] =
            [row.direction.name(), row.verdict.name(), row.reason.name()].map(str::to_owned);
        [of, direction, verdict, reason, row.packets.to_string(), row.bytes.to_string()]
    };
    let rows = |rows: Vec<CounterRow>| rows.into_iter().map(cells).collect();
    let mut columns = texts.counter_columns;
    let by_group = table("counters", texts.counters, texts.none, columns, rows(totals.by_group));
    columns[0] = texts.interface_columns[0];
    let by_interface = (texts.interface_counters, rows(totals.by_interface));
    html! {
        (by_group)
        (table("interface-counters", by_interface.0, texts.none, columns, by_interface.1))
    }
}

fn setup(texts: &Texts, status: &Status) -> Markup {
    let rows = status
        .interfaces
        .iter()
        .map(|it| [&it.name, &it.role, &it.direction, &it.hook].map(Clone::clone));
    let policy = &status.policy;
    html! {
        (table("interfaces", texts.interfaces, texts.none, texts.interface_columns, rows.collect()))
        section aria-labelledby="policy" {
            h2 id="policy" { (texts.policy) }
            p { (texts.generation) " " (policy.generation) ", " code { (policy.digest) } }
        }
    }
}

/// A table that scrolls on its own on a narrow screen.
fn table<const N: usize>(
    id: &str,
    title: &str,
    none: &str,
    columns: [&str; N],
    rows: Vec<[String; N]>,
) -> Markup {
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (title) }
            @if rows.is_empty() {
                p { (none) }
            } @else {
                div class="scroll" role="region" aria-labelledby=(id) tabindex="0" {
                    table {
                        thead { tr { @for column in columns { th scope="col" { (column) } } } }
                        tbody { @for row in rows { tr { @for cell in row { td { (text::line(&cell)) } } } } }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
