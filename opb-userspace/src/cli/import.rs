use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{ValueEnum, builder::PossibleValue};
use opb_userspace::{
    files,
    import::{self, Format, Imported, LIMIT, Note, Options, import},
};

use super::{
    failure::{self, Failure},
    output::Output,
};

/// Warnings that are printed. The policy has up to a thousand of them, as comments.
const WARNINGS: usize = 100;

/// Make a policy of the rules of nftables, ipset, IOS or Junos
///
/// Reads `nft -j list ruleset`, `nft list ruleset` (sets only), `ipset save`, a list of prefixes,
/// extended ACLs of Cisco IOS, or filters of Junos. Writes a policy. What the policy cannot say in
/// the same way becomes a comment and a warning, and the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  opb import ruleset.json --output new.yaml\n  opb import ipset.save --relay-set relays"
)]
pub(crate) struct Import {
    /// Rules or sets; `-` is standard input
    #[arg(value_name = "FILE")]
    input: PathBuf,

    /// Format of the input, instead of what its lines look like
    #[arg(long, value_name = "FORMAT")]
    format: Option<InputFormat>,

    /// Import this ACL, filter or chain, if several deny mail
    #[arg(long = "rules", value_name = "NAME")]
    rules: Vec<String>,

    /// This set holds relays (ipset and nft)
    #[arg(long = "relay-set", value_name = "SET")]
    relays: Vec<String>,

    /// This set holds exempt subscribers (ipset and nft)
    #[arg(long = "exempt-set", value_name = "SET")]
    exempt: Vec<String>,

    /// Write the policy to a new file instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Overwrite the file of --output
    #[arg(long, requires = "output")]
    force: bool,
}

#[derive(Clone, Copy, Debug)]
struct InputFormat(Format);

impl ValueEnum for InputFormat {
    fn value_variants<'a>() -> &'a [Self] {
        use Format::{Ios, Ipset, Junos, List, Nft, NftJson};
        const ALL: [InputFormat; 6] = [
            InputFormat(NftJson),
            InputFormat(Nft),
            InputFormat(Ipset),
            InputFormat(List),
            InputFormat(Ios),
            InputFormat(Junos),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

impl Import {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let Self { input, format, rules, relays, exempt, output, force } = self;
        let shown = input.display().to_string();
        let bytes = read(&input)?;
        let format = format.map(|InputFormat(format)| format);
        let options = Options { format, rules, relays, exempt };
        let imported = import(&bytes, &shown, &options).map_err(|error| refused(&shown, &error))?;
        match &output {
            Some(path) => write(path, &imported.yaml, force)?,
            None => {
                let mut output = Output::new();
                output.raw(&imported.yaml)?;
                output.finish()?;
            }
        }
        report(&shown, output.as_deref(), &imported);
        if imported.is_complete() { Ok(()) } else { Err(Failure::NEGATIVE) }
    }
}

fn refused(shown: &str, error: &import::ImportError) -> Failure {
    let failure = Failure::invalid(format!("{shown}: {error}"));
    match error {
        import::ImportError::UnknownFormat => failure.hint("`--format` names the format"),
        import::ImportError::Ambiguous { .. } => failure.hint("`--rules NAME` selects a list"),
        _ => failure,
    }
}

fn report(shown: &str, output: Option<&Path>, imported: &Imported) {
    let (lost, infos): (Vec<_>, Vec<_>) = imported.notes.iter().partition(|note| note.lost);
    let line = |note: &&Note| format!("{shown}: {note}");
    failure::warn(lost.iter().take(WARNINGS).map(line));
    if lost.len() > WARNINGS {
        failure::warn([format!("{shown}: and {} more", lost.len() - WARNINGS)]);
    }
    failure::warn(infos.iter().take(WARNINGS).map(line));
    if let Some(output) = output {
        let summary = &imported.summary;
        failure::warn([format!(
            "{}: groups: {}, IPv4 prefixes: {}, IPv6 prefixes: {}, relay sets: {}, exemptions: \
             {}, not taken over: {}",
            output.display(),
            summary.groups,
            summary.prefixes_ipv4,
            summary.prefixes_ipv6,
            summary.relays,
            summary.exemptions,
            lost.len(),
        )]);
    }
}

fn read(input: &Path) -> Result<Vec<u8>, Failure> {
    if input == Path::new("-") {
        let mut bytes = Vec::new();
        // One byte more than the limit, which then reports it.
        let read = io::stdin().lock().take(LIMIT as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| Failure::new("cannot read standard input").caused_by(Some(&error)))?;
        return Ok(bytes);
    }
    let read = files::read(input, LIMIT as u64);
    read.map_err(|error| Failure::new(format!("{}: {error}", input.display())))
}

/// Writes a new file, or with `force` replaces one as a whole.
fn write(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let failure = Failure::new(format!("cannot write {}", path.display()));
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                failure.caused_by(Some(&error)).hint("`--force` overwrites it")
            }
            _ => failure.caused_by(Some(&error)),
        }
    };
    let mut name = path.as_os_str().to_owned();
    if force {
        name.push(format!(".{}.new", std::process::id()));
    }
    let target = PathBuf::from(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o644);
    let mut file = options.open(&target).map_err(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let written = written.and_then(|()| if force { fs::rename(&target, path) } else { Ok(()) });
    written.map_err(|error| {
        // The error of the write counts, not that of the clean-up.
        drop(fs::remove_file(&target));
        failed(error)
    })
}
