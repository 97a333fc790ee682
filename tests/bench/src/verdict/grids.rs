//! Tables and plots of the results.

use super::{Hook, Link, Row, Subject, Traffic};
use crate::{
    clock::median,
    plot::Plot,
    report::Grid,
    table::{Family, Shape, Sources},
};

pub fn grids(rows: &[Row]) -> Vec<Grid> {
    let mut grids = vec![passing_sheet(rows)];
    for hook in Hook::BOTH {
        let grid = smtp_sheet(rows, hook);
        if !grid.rows.is_empty() {
            grids.push(grid);
        }
    }
    grids
}

/// Tables make no difference to this traffic, so there is one number for all of them.
fn passing_sheet(rows: &[Row]) -> Grid {
    let mut grid = Grid::new(
        "Packets that are none of the filter's business: ns over an empty program",
        3,
        &["hook", "link", "traffic", "opb IPv4", "opb IPv6", "LPM tries IPv4", "LPM tries IPv6"],
    );
    for hook in Hook::BOTH {
        for link in Link::BOTH {
            for traffic in [Traffic::Web, Traffic::Udp] {
                let cell = |subject, family| {
                    passing(rows, hook, link, traffic, subject, family).map_or_else(String::new, ns)
                };
                let numbers = [Subject::Opb, Subject::Reference]
                    .into_iter()
                    .flat_map(|subject| Family::BOTH.map(|family| cell(subject, family)));
                let words = [hook.to_string(), link.to_string(), traffic.to_string()];
                grid.rows.push(words.into_iter().chain(numbers).collect());
            }
        }
    }
    grid
}

/// Nanoseconds over an empty program, median of all tables.
pub fn passing(
    rows: &[Row],
    hook: Hook,
    link: Link,
    traffic: Traffic,
    subject: Subject,
    family: Family,
) -> Option<f64> {
    let key = (hook, link, traffic, subject, family);
    let found = rows
        .iter()
        .filter(|row| (row.hook, row.link, row.traffic, row.subject, row.family) == key)
        .map(Row::over_empty);
    let found: Vec<f64> = found.collect();
    (!found.is_empty()).then(|| median(&found))
}

fn smtp_sheet(rows: &[Row], hook: Hook) -> Grid {
    let title = format!("SYNs to port 25 at {hook}: ns over an empty program");
    let subjects: &[Subject] = match hook {
        Hook::Xdp => &[Subject::Opb, Subject::OpbEvents, Subject::Reference],
        Hook::Tc => &[Subject::Opb],
    };
    let mut header: Vec<String> = ["family", "link", "shape", "prefixes"].map(str::to_owned).into();
    for sources in Sources::ALL {
        header.extend(subjects.iter().map(|subject| format!("{sources}: {subject}")));
        if hook == Hook::Xdp {
            header.push("ratio".to_owned());
        }
    }
    let mut grid = Grid { title, header, words: 3, rows: Vec::new() };
    let mut seen = Vec::new();
    for row in rows.iter().filter(|row| row.hook == hook) {
        let key = (row.family, row.link, row.shape, row.size);
        if !matches!(row.traffic, Traffic::Smtp(_)) || seen.contains(&key) {
            continue;
        }
        seen.push(key);
    }
    seen.sort_by_key(|(family, link, shape, size)| {
        (family.is_ipv6(), *link == Link::Access, *shape == Shape::Mixed, *size)
    });
    for (family, link, shape, size) in seen {
        let mut cells =
            vec![family.to_string(), link.to_string(), shape.to_string(), size.to_string()];
        for sources in Sources::ALL {
            let find = |subject| {
                let key = (hook, family, link, Traffic::Smtp(sources), shape, size, subject);
                rows.iter().find(|row| row.key() == key).map(Row::over_empty)
            };
            cells
                .extend(subjects.iter().map(|subject| find(*subject).map_or_else(String::new, ns)));
            if hook == Hook::Xdp {
                let ratio = find(Subject::Opb).zip(find(Subject::Reference)).map(|(a, b)| a / b);
                cells.push(ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
            }
        }
        grid.rows.push(cells);
    }
    grid
}

fn ns(value: f64) -> String {
    format!("{value:.1}")
}

/// The hardest table, in plain Ethernet at XDP.
pub fn plots(rows: &[Row]) -> Vec<Plot> {
    let line = |family, subject, sources| {
        let key = (Hook::Xdp, family, Link::Plain, Traffic::Smtp(sources), Shape::Mixed, subject);
        let points = rows.iter().filter(|row| {
            (row.hook, row.family, row.link, row.traffic, row.shape, row.subject) == key
        });
        let points = points.map(|row| (row.size as f64, row.over_empty())).collect();
        (format!("{subject}, {sources}"), points)
    };
    let plot = |family: Family| Plot {
        file: format!("bench-verdict-{}", family.to_string().to_lowercase()),
        title: format!("Verdict on a SYN to port 25, {family}, prefixes of 11 lengths"),
        x: "prefixes",
        y: "ns over an empty program",
        lines: [Subject::Opb, Subject::Reference]
            .into_iter()
            .flat_map(|subject| Sources::ALL.map(|sources| line(family, subject, sources)))
            .collect(),
    };
    Family::BOTH.map(plot).into()
}
