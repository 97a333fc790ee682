//! The last full run, written into docs/benchmarks.md.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{parts::Results, plan::Effort, targets};

/// What stands between these lines is written here, everything else by people.
const BEGIN: &str = "<!-- written by cargo xtask bench --record -->";
const END: &str = "<!-- end -->";

/// Replaces the results in `docs/benchmarks.md` and the plots in `docs/images`, below `root`.
pub fn record(root: &Path, results: &Results) -> Result<()> {
    for (part, about) in &results.about {
        ensure!(
            about.effort == Effort::Full,
            "the last run of part {} was no full one: only full runs are recorded",
            part.name()
        );
    }
    let images = root.join("docs/images");
    let page = root.join("docs/benchmarks.md");
    let text = fs::read_to_string(&page).with_context(|| format!("no {}", page.display()))?;
    let (before, rest) =
        text.split_once(BEGIN).context("docs/benchmarks.md lost its first mark")?;
    let (_, after) = rest.split_once(END).context("docs/benchmarks.md lost its last mark")?;

    let mut new = format!("{before}{BEGIN}\n\n");
    let targets = targets::grid(&targets::all(results));
    write!(new, "### {}\n\n{}\n\n", targets.title, targets.markdown())?;
    for (part, about) in &results.about {
        writeln!(
            new,
            "### Part `{}`\n\n{}, commit {}; Linux {}, {} × {}, {} GiB.\n",
            part.name(),
            about.date,
            about.commit,
            about.kernel,
            about.processors,
            about.processor,
            about.memory_gib
        )?;
        for plot in results.plots(*part) {
            plot.write(&images)?;
            writeln!(new, "![{}](images/{}.svg)\n", plot.title, plot.file)?;
        }
        for grid in results.grids(*part) {
            write!(new, "{}:\n\n{}\n\n", grid.title, grid.markdown())?;
        }
    }
    write!(new, "{END}{after}")?;
    fs::write(&page, new).with_context(|| format!("cannot write {}", page.display()))
}
