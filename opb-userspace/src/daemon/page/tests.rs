//! What stands on the page, from data of the tests'; how it looks is `tests/seen/browser.rs`.

use serde_json::json;

use super::*;

fn status(state: &str, problems: &[&str], warnings: &[&str]) -> Status {
    let problems = problems.iter().map(|text| json!({"about": "pins", "text": text}));
    let problems: Vec<_> = problems.collect();
    let status = json!({
        "state": state, "version": "1", "abi": 1, "pid": 1, "since": "2026-01-01T00:00:00Z",
        "policy": {
            "generation": 42, "digest": "d1", "image_bytes": 4096, "groups": [],
            "nodes": {"used": 1, "max": 2},
        },
        "last_reload": {
            "time": "2026-01-01T00:00:00Z", "trigger": "start", "success": true,
            "outcome": "unchanged",
        },
        "interfaces": [], "problems": problems, "warnings": warnings,
    });
    serde_json::from_value(status).expect("a status")
}

fn shown(class: &str, problems: &[&str], warnings: &[&str]) -> String {
    state(&Texts::ENGLISH, Some(&status(class, problems, warnings))).into_string()
}

#[test]
fn problems_and_warnings_are_shown() {
    let page = shown("degraded", &["sub0 < gone", "no pins"], &["xdp-generic"]);
    assert!(page.contains(Texts::ENGLISH.degraded) && page.contains("state warn"), "{page}");
    for item in [
        "<li class=\"warn\">sub0 &lt; gone</li>",
        "<li class=\"warn\">no pins</li>",
        "<li>xdp-generic</li>",
    ] {
        assert!(page.contains(item), "no {item} in {page}");
    }
    // One kind is enough for a list.
    assert!(shown("degraded", &["no pins"], &[]).contains("<li class=\"warn\">no pins</li>"));
    assert!(shown("enforcing", &[], &["xdp-generic"]).contains("<li>xdp-generic</li>"));
    let page = shown("enforcing", &[], &[]);
    assert!(page.contains(Texts::ENGLISH.enforcing) && page.contains("state good"), "{page}");
    assert!(!page.contains("<ul"), "{page}");
    let page = state(&Texts::ENGLISH, None).into_string();
    assert!(page.contains(Texts::ENGLISH.starting) && page.contains("state warn"), "{page}");
}

/// The largest minute is as high as the chart, and all others are in proportion; each kind stands
/// on the one below it.
#[test]
fn bars_are_as_high_as_their_numbers() {
    let minute = |number, passed, denied, watched| Minute { number, passed, denied, watched };
    let hour = [minute(0, 0, 0, 0), minute(1, 10, 20, 10), minute(2, 40, 25, 15)];
    let chart = chart(&Texts::ENGLISH, &hour).into_string();
    for (class, x, y, height) in [
        ("denied", 0, "100.0", "0.0"),
        ("denied", 10, "75.0", "25.0"),
        ("watched", 10, "62.5", "12.5"),
        ("passed", 10, "50.0", "12.5"),
        ("denied", 20, "68.8", "31.2"),
        ("watched", 20, "50.0", "18.8"),
        ("passed", 20, "0.0", "50.0"),
    ] {
        let bar =
            format!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"9\" height=\"{height}\">");
        assert!(chart.contains(&bar), "no {bar} in {chart}");
    }
    // And in words: the sums, in the order of the series.
    let [passed, denied, watched] = Texts::ENGLISH.series;
    let summary = format!("{passed} 50, {denied} 45, {watched} 25");
    assert!(chart.contains(&summary), "no {summary} in {chart}");
    assert!(!super::chart(&Texts::ENGLISH, &[]).into_string().contains("NaN"));
}

/// Each error says which field to correct, in both languages, and none says the same as another.
#[test]
fn each_form_error_has_a_text_of_its_own() {
    let errors = [FormError::Source, FormError::Destination, FormError::Port, FormError::Families];
    for texts in [&Texts::ENGLISH, &Texts::JAPANESE] {
        let shown: std::collections::BTreeSet<_> = (errors.iter())
            .map(|&error| {
                let question = Question { src: "", dst: "", dport: "" };
                answered(texts, &question, &PageResult::Invalid(error)).into_string()
            })
            .collect();
        assert_eq!(shown.len(), errors.len());
        assert!(shown.iter().all(|html| html.contains("role=\"alert\"")), "{shown:?}");
    }
}

#[test]
fn an_error_of_the_daemon_is_shown() {
    let question = Question { src: "203.0.113.7", dst: "198.51.100.25", dport: "25" };
    let failed = PageResult::Failed(QueryError::HalfOuter);
    let html = answered(&Texts::ENGLISH, &question, &failed).into_string();
    assert!(html.contains(&QueryError::HalfOuter.to_string()), "{html}");
}
