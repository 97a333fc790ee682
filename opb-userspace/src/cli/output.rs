//! Standard output: tables for people, JSON for programs. Both contain text from outside, so
//! control characters are escaped.

use std::io::{self, BufWriter, StdoutLock, Write as _};

use comfy_table::{Table, presets};
use opb_userspace::text;
use serde::Serialize;

use super::failure::{self, Failure};

/// The option that selects the output format.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Format {
    /// Write JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// The locked standard output, buffered. Without [`Output::finish`], errors of the last write are
/// lost.
pub(crate) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    pub(crate) fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    pub(crate) fn line(&mut self, text: impl std::fmt::Display) -> Result<(), Failure> {
        let text = text.to_string();
        writeln!(self.0, "{}", text::lines(&text)).map_err(failure::output)
    }

    /// Writes text as it is, for a file.
    pub(crate) fn raw(&mut self, text: &str) -> Result<(), Failure> {
        self.0.write_all(text.as_bytes()).map_err(failure::output)
    }

    /// Writes a value as one line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value).map_err(|error| failure::output(error.into()))?;
        writeln!(self.0, "{}", text::json(&line)).map_err(failure::output)
    }

    /// Writes rows as columns under `header`. Without rows, writes nothing.
    pub(crate) fn table<const N: usize>(
        &mut self,
        header: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(header.map(str::to_uppercase));
        table.add_rows(rows.into_iter().map(|row| row.map(|cell| text::line(&cell).into_owned())));
        if table.row_count() == 0 {
            return Ok(());
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        // The padding of the last column is white space at the end of the line.
        table.lines().try_for_each(|line| self.line(line.trim_end()))
    }

    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.0.flush().map_err(failure::output)
    }
}
