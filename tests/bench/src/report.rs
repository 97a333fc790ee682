//! What a run leaves: tables for people, and a file of JSON a part, from which everything else can be made again.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, presets};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::plan::Effort;

/// One table, written the same way on a terminal and in the docs.
pub struct Grid {
    pub title: String,
    pub header: Vec<String>,
    /// Columns in front that are words; what follows are numbers.
    pub words: usize,
    pub rows: Vec<Vec<String>>,
}

impl Grid {
    pub fn new(title: impl Into<String>, words: usize, header: &[&str]) -> Self {
        let header = header.iter().map(|&name| name.to_owned()).collect();
        Self { title: title.into(), header, words, rows: Vec::new() }
    }

    pub fn markdown(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::ASCII_MARKDOWN).set_header(&self.header).add_rows(&self.rows);
        for column in table.column_iter_mut().skip(self.words) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut lines: Vec<String> = table.lines().collect();
        // The preset knows nothing of how Markdown aligns a column.
        if let Some(line) = lines.get_mut(1) {
            let cells = line.trim_matches('|').split('|');
            let aligned = cells.enumerate().map(|(number, cell)| match cell.len().checked_sub(1) {
                Some(dashes) if number >= self.words => format!("{}:", "-".repeat(dashes)),
                _ => cell.to_owned(),
            });
            *line = format!("|{}|", aligned.collect::<Vec<_>>().join("|"));
        }
        lines.join("\n")
    }
}

/// Where and when a part was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub effort: Effort,
    pub date: String,
    pub commit: String,
    pub kernel: String,
    pub processor: String,
    pub processors: usize,
    pub memory_gib: u64,
}

impl About {
    pub fn here(effort: Effort) -> Result<Self> {
        let line = |file: &str, key: &str| -> Result<String> {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
            let value = text.lines().find_map(|line| line.strip_prefix(key));
            Ok(value.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned())
        };
        let kib = line("/proc/meminfo", "MemTotal")?;
        let kib: u64 = kib.trim_end_matches(" kB").parse().context("MemTotal")?;
        let git = Command::new("git").args(["describe", "--always", "--dirty"]).output();
        let git = git.ok().filter(|output| output.status.success());
        let commit = git.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        Ok(Self {
            effort,
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            commit: commit.unwrap_or_else(|| "unknown".to_owned()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor: line("/proc/cpuinfo", "model name")?,
            processors: std::thread::available_parallelism()?.get(),
            memory_gib: (kib + (1 << 19)) >> 20,
        })
    }
}

/// The file of one part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record<T> {
    pub about: About,
    pub rows: Vec<T>,
}

impl<T: Serialize> Record<T> {
    pub fn write(&self, directory: &Path, part: &str) -> Result<()> {
        let file = directory.join(part).with_extension("json");
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

impl<T: DeserializeOwned> Record<T> {
    pub fn read(directory: &Path, part: &str) -> Result<Self> {
        let file = directory.join(part).with_extension("json");
        let text = fs::read(&file).with_context(|| {
            format!("part {part} was not measured: cannot read {}", file.display())
        })?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is of another version: measure again", file.display()))
    }
}
