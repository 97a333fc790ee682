//! Reading a YAML file of ours: from bytes to typed values, with every problem at its place.
//!
//! [`yaml`] turns text into a tree whose scalars can be found again, [`decode`] turns the tree into
//! typed values, [`source`] reads the files of one load and collects their problems, and
//! [`diagnostics`] is the result: problems with file, line and column. Policy and node files are
//! both read this way; which keys they have is the business of `policy` and `node`.

mod decode;
mod diagnostics;
mod source;
mod yaml;

pub use diagnostics::{Diagnostic, Diagnostics, Excerpt, LineColumn, Location, Note, Severity};
pub use source::{Form, Source};

pub(crate) use decode::{Decoder, Entries, Fields, did_you_mean};
pub(crate) use source::{FileId, Report, Spot, visible_entry};
pub(crate) use yaml::{Value, YamlNode, parse};
