//! Standard output: tables for people, JSON for programs. What others wrote is in both, so nothing in them steers a terminal.

use std::io::{self, BufWriter, StdoutLock, Write as _};

use comfy_table::{Table, presets};
use opb_userspace::text;
use serde::Serialize;

use super::failure::{self, Failure};

/// How the output is written.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Format {
    /// Writes JSON instead of text for people
    #[arg(long)]
    pub(crate) json: bool,
}

/// The locked standard output. Call [`Output::finish`], or the end of it is lost without a word.
pub(crate) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    pub(crate) fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    pub(crate) fn line(&mut self, text: impl std::fmt::Display) -> Result<(), Failure> {
        let text = text.to_string();
        writeln!(self.0, "{}", text::lines(&text)).map_err(failure::output)
    }

    /// One line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value).map_err(|error| failure::output(error.into()))?;
        writeln!(self.0, "{}", text::json(&line)).map_err(failure::output)
    }

    /// Columns under `header`; nothing at all where there are no rows.
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
        // The padding of the last column would be white space at the end of a line.
        table.lines().try_for_each(|line| self.line(line.trim_end()))
    }

    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.0.flush().map_err(failure::output)
    }
}
