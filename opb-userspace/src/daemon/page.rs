//! The status page, for the network's operators and the support desk. It is whole without scripts; with them its live
//! part is fetched again every few seconds.

use std::sync::Arc;

use maud::{DOCTYPE, Markup, html};
use opb_common::outcome::Verdict;

use super::words::Words;
use crate::api::{
    events::Event, events::Kind, explain::Explanation, status::State, status::Status,
};
use crate::{
    kernel::CounterRow,
    telemetry::{Telemetry, history::Minute},
    text,
};

/// Rows of each table.
const ROWS: usize = 15;

/// What was typed into the form.
pub(super) struct Question<'a> {
    pub(super) src: &'a str,
    pub(super) dst: &'a str,
    pub(super) dport: &'a str,
}

pub(super) enum Answer {
    Unasked,
    NotUnderstood,
    /// The daemon cannot answer now.
    Unavailable,
    Explained(Box<Explanation>),
}

pub(super) fn whole(
    words: &Words,
    status: Option<&Status>,
    telemetry: &Telemetry,
    question: &Question<'_>,
    answer: &Answer,
) -> Markup {
    html! {
        (DOCTYPE)
        html lang=(words.lang) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "opb: " (words.title) }
                link rel="stylesheet" href="/style.css";
                script src="/page.js" defer {}
            }
            body {
                header {
                    h1 { (words.title) }
                    a href={ "/?lang=" (words.other.0) } lang=(words.other.0) hreflang=(words.other.0) { (words.other.1) }
                }
                main {
                    (form(words, question))
                    (answered(words, question, answer))
                    p { button type="button" id="pause" data-resume=(words.resume) hidden { (words.pause) } }
                    div id="live" data-lang=(words.lang) { (live(words, status, telemetry)) }
                }
            }
        }
    }
}

/// The part that changes by itself.
pub(super) fn live(words: &Words, status: Option<&Status>, telemetry: &Telemetry) -> Markup {
    html! {
        (state(words, status))
        (chart(words, &telemetry.hour()))
        (talkers(words, telemetry))
        (events(words, &telemetry.newest_events(ROWS)))
        (counters(words, telemetry))
        (status.map(|status| setup(words, status)).unwrap_or_default())
    }
}

fn form(words: &Words, question: &Question<'_>) -> Markup {
    let port = if question.dport.is_empty() { "25" } else { question.dport };
    html! {
        section aria-labelledby="why" {
            h2 id="why" { (words.form_title) }
            p { (words.form_intro) }
            form action="/" method="get" {
                input type="hidden" name="lang" value=(words.lang);
                label { (words.source) input name="src" value=(question.src) required autocomplete="off" spellcheck="false"; }
                label { (words.destination) input name="dst" value=(question.dst) required autocomplete="off" spellcheck="false"; }
                label class="short" { (words.port) input name="dport" value=(port) inputmode="numeric" autocomplete="off"; }
                button type="submit" { (words.ask) }
            }
        }
    }
}

fn answered(words: &Words, question: &Question<'_>, answer: &Answer) -> Markup {
    let explained = match answer {
        Answer::Unasked => return Markup::default(),
        Answer::NotUnderstood => {
            return html! { p class="answer warn" role="alert" { (words.not_understood) } };
        }
        Answer::Unavailable => {
            return html! { p class="answer warn" role="alert" { (words.unavailable) } };
        }
        Answer::Explained(explained) => explained,
    };
    let [sentence, advice] = words.answer(explained, question.dport.trim().parse().unwrap_or(25));
    let denied = explained.verdict != Verdict::Pass;
    html! {
        section class={ "answer " (if denied { "warn" } else { "good" }) } role="status" aria-labelledby="answer" {
            h2 id="answer" { (text::line(question.src)) " → " (text::line(question.dst)) }
            p { strong { (sentence) } }
            h3 { (words.advice) }
            p { (advice) }
            details {
                summary { (words.steps) " (" code { (explained.verdict.name()) "/" (explained.reason.name()) } ")" }
                ol lang="en" { @for step in &explained.chain { li { (text::line(step)) } } }
            }
        }
    }
}

fn state(words: &Words, status: Option<&Status>) -> Markup {
    let Some(status) = status else { return html! { p class="state warn" { (words.starting) } } };
    let (class, text) = match status.state {
        State::Enforcing => ("good", words.enforcing),
        State::Degraded => ("warn", words.degraded),
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

/// Bars of SVG: colours come from the style sheet, numbers are in the text for those who do not see them.
fn chart(words: &Words, hour: &[Minute]) -> Markup {
    const HEIGHT: u64 = 100;
    let total = |minute: &Minute| minute.passed + minute.denied + minute.watched;
    let most = hour.iter().map(total).max().unwrap_or(0).max(1);
    let sums = hour.iter().fold([0; 3], |sums, minute| {
        [sums[0] + minute.passed, sums[1] + minute.denied, sums[2] + minute.watched]
    });
    let height = |packets: u64| packets as f64 * HEIGHT as f64 / most as f64;
    let summary = format!(
        "{}: {}",
        words.chart,
        (words.series.iter().zip(sums))
            .map(|(name, sum)| format!("{name} {sum}"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    html! {
        section aria-labelledby="hour" {
            h2 id="hour" { (words.hour) }
            figure {
                svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-label=(summary) {
                    @for (index, minute) in hour.iter().enumerate() {
                        @let x = index * 10;
                        @let denied = height(minute.denied);
                        @let watched = height(minute.watched);
                        @let passed = height(minute.passed);
                        rect class="denied" x=(x) y=(format!("{:.1}", 100.0 - denied)) width="9" height=(format!("{denied:.1}")) {}
                        rect class="watched" x=(x) y=(format!("{:.1}", 100.0 - denied - watched)) width="9" height=(format!("{watched:.1}")) {}
                        rect class="passed" x=(x) y=(format!("{:.1}", 100.0 - denied - watched - passed)) width="9" height=(format!("{passed:.1}")) {}
                    }
                }
                figcaption {
                    span class="axis" { span { (words.minutes_ago) } span { (words.now) } }
                    span class="legend" {
                        @for ((name, sum), class) in words.series.iter().zip(sums).zip(["passed", "denied", "watched"]) {
                            span { svg class="key" viewBox="0 0 10 10" aria-hidden="true" { rect class=(class) width="10" height="10" {} } (name) ": " (sum) " " }
                        }
                    }
                }
            }
        }
    }
}

fn talkers(words: &Words, telemetry: &Telemetry) -> Markup {
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
    table("talkers", words.talkers, words.none, words.talker_columns, rows.collect())
}

fn events(words: &Words, events: &[Arc<Event>]) -> Markup {
    let rows = events.iter().map(|event| {
        let verdict = match event.kind {
            Kind::Denied => event.verdict_and_reason(),
            Kind::Suspect => format!("{} ({})", words.suspect, event.packets.unwrap_or_default()),
            Kind::Relay => format!("{} {}", words.relay_host, event.host),
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
    table("events", words.events, words.none, words.event_columns, rows.collect())
}

fn counters(words: &Words, telemetry: &Telemetry) -> Markup {
    let totals = telemetry.totals();
    let cells = |row: CounterRow| {
        let of = row.of.unwrap_or_else(|| "-".to_owned());
        let [direction, verdict, reason] =
            [row.direction.name(), row.verdict.name(), row.reason.name()].map(str::to_owned);
        [of, direction, verdict, reason, row.packets.to_string(), row.bytes.to_string()]
    };
    let rows = |rows: Vec<CounterRow>| rows.into_iter().map(cells).collect();
    let mut columns = words.counter_columns;
    let by_group = table("counters", words.counters, words.none, columns, rows(totals.by_group));
    columns[0] = words.interface_columns[0];
    let by_interface = (words.interface_counters, rows(totals.by_interface));
    html! {
        (by_group)
        (table("interface-counters", by_interface.0, words.none, columns, by_interface.1))
    }
}

fn setup(words: &Words, status: &Status) -> Markup {
    let rows = status
        .interfaces
        .iter()
        .map(|it| [&it.name, &it.role, &it.direction, &it.hook].map(Clone::clone));
    let policy = &status.policy;
    html! {
        (table("interfaces", words.interfaces, words.none, words.interface_columns, rows.collect()))
        section aria-labelledby="policy" {
            h2 id="policy" { (words.policy) }
            p { (words.generation) " " (policy.generation) ", " code { (policy.digest) } }
        }
    }
}

/// A table that scrolls by itself where the screen is narrow.
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
