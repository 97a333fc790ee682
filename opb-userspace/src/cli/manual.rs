//! The manual pages and the shells' completions, made from the commands. Only tests make them:
//! `cargo xtask dist` runs this one with a directory for its output, and the program does not have
//! to carry them.

use std::{env, fs, path::PathBuf};

use clap::{Command, CommandFactory as _, ValueEnum as _};
use clap_complete::Shell;

use super::{Arguments, help};

/// Pages of a command and of those below it, as names without `opb-`.
fn names(command: &Command, above: &str) -> Vec<String> {
    let below = command.get_subcommands().flat_map(|it| {
        let name = format!("{above}-{}", it.get_name());
        [vec![name.clone()], names(it, &name)].concat()
    });
    below.collect()
}

#[test]
fn every_command_has_a_manual_page_and_every_shell_its_completions() {
    let scratch = tempfile::tempdir().expect("a directory");
    let out = env::var_os("OPB_MANUAL").map_or_else(|| scratch.path().into(), PathBuf::from);
    fs::create_dir_all(&out).expect("a directory");
    let mut command = help::grouped(Arguments::command());
    // The template of `opb --help` is for terminals.
    clap_mangen::generate_to(Arguments::command(), &out).expect("writes");
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut command, "opb", &out).expect("writes");
    }
    for page in [vec!["opb".to_owned()], names(&command, "opb")].concat() {
        let text = fs::read_to_string(out.join(format!("{page}.1"))).expect(&page);
        assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    for file in ["opb.bash", "_opb", "opb.fish"] {
        let text = fs::read_to_string(out.join(file)).expect(file);
        assert!(text.contains("rollback"), "{file}");
    }
}
