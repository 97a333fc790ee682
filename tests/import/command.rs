//! The command: streams, exit codes and files.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

const OPB: &str = env!("CARGO_BIN_EXE_opb");

const ACL: &str =
    "access-list 100 deny tcp 203.0.113.0 0.0.0.255 any eq 25\naccess-list 100 permit ip any any\n";

fn opb(directory: &Path, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(OPB);
    command.args(arguments).current_dir(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("opb runs");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
    let Output { status, stdout, stderr } = child.wait_with_output().expect("opb ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_whole_import_exits_with_0_and_passes_the_check() {
    let directory = tempfile::tempdir().expect("a directory");
    let (code, yaml, errors) = opb(directory.path(), &["import", "-"], ACL);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    fs::write(directory.path().join("new.yaml"), yaml).expect("written");
    let (code, _, errors) = opb(directory.path(), &["check", "new.yaml"], "");
    assert_eq!((code, errors.as_str()), (Some(0), ""));
}

#[test]
fn a_part_that_is_left_out_exits_with_1_and_a_warning() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = format!("access-list 100 permit tcp any any eq 25 dscp ef\n{ACL}");
    let (code, yaml, errors) = opb(directory.path(), &["import", "-"], &text);
    assert_eq!(code, Some(1));
    assert!(yaml.contains("version: 1\n"), "{yaml}");
    assert_eq!(
        errors,
        "opb: -: line 1: not taken over: the policy has nothing like the option `dscp`: \
         `access-list 100 permit tcp any any eq 25 dscp ef`\n"
    );
}

#[test]
fn nothing_to_import_exits_with_2() {
    let directory = tempfile::tempdir().expect("a directory");
    let (code, yaml, errors) = opb(directory.path(), &["import", "-"], "hello\n");
    assert_eq!((code, yaml.as_str()), (Some(2), ""));
    assert!(errors.starts_with("opb: error: -: unknown format: "), "{errors}");
    assert!(errors.contains("hint: `--format`"), "{errors}");
    let (code, _, errors) = opb(directory.path(), &["import", "none"], "");
    assert_eq!((code, errors.as_str()), (Some(1), "opb: error: none: no such file or directory\n"));
}

#[test]
fn a_file_is_only_overwritten_with_force() {
    let directory = tempfile::tempdir().expect("a directory");
    let new = directory.path().join("new.yaml");
    let to_file = ["import", "-", "--output", "new.yaml"];
    let (code, output, _) = opb(directory.path(), &to_file, ACL);
    assert_eq!((code, output.as_str()), (Some(0), ""));
    let first = fs::read_to_string(&new).expect("a policy");
    let other = ACL.replace("203.0.113.0", "198.51.100.0");
    let (code, _, errors) = opb(directory.path(), &to_file, &other);
    assert_eq!(code, Some(1));
    assert!(errors.contains("hint: `--force` overwrites it"), "{errors}");
    assert_eq!(fs::read_to_string(&new).expect("a policy"), first);
    let (code, ..) = opb(directory.path(), &[to_file.as_slice(), &["--force"]].concat(), &other);
    assert_eq!(code, Some(0));
    assert!(fs::read_to_string(&new).expect("a policy").contains("198.51.100.0/24"));
    assert_eq!(fs::read_dir(directory.path()).expect("a list").count(), 1, "nothing is left over");
}
