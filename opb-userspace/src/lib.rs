//! The opb daemon and command line. The modules stand in the order in which data flows: each uses
//! only modules above it.

// Text for terminals and logs: control characters are escaped, long text is cut.
pub mod text;
// Errors and their causes as text.
pub mod errors;
// Lengths of time as people write them, such as `8h`.
pub mod period;
// Regular files of a limited size.
pub mod files;
// Directories and files that no other user can change.
pub mod private;
// YAML files as typed values, with every problem at its line and column.
pub mod document;
// Policy files: from text to a policy that is valid by construction.
pub mod policy;
// The node file: what is particular to one machine.
pub mod node;
// `opb import`: rules and sets of other filters as a policy.
pub mod import;
// Requests and responses of the control API, which are also the format of `--json`.
pub mod api;
// Commits: the policies that were put in force, kept on disk.
pub mod commits;
// Run-time entries: per-subscriber overrides of the policy files, kept on disk.
pub mod subscribers;
// RADIUS accounting: packets, and the reports on sessions in them.
pub mod radius;
// Relay hosts: their addresses by DNS.
pub mod relays;
// `opb check`: validates policy and node files.
pub mod check;
// The policy image: a policy compiled into the tables that the BPF programs search.
pub mod image;
// The policy in force: files, run-time entries and relay hosts together, and their image.
pub mod compiled;
// The kernel side: maps, programs, hooks, counters. All of aya and all raw system calls.
pub mod kernel;
// Rules of nftables and iptables that deny port 25 beside opb.
pub mod firewall;
// Packets from capture files.
pub mod capture;
// The verdict on one packet, with its reasons.
pub mod explain;
// Address ranges whose treatment differs between two policies.
pub mod diff;
// Events and top talkers of denied packets, and the metrics.
pub mod telemetry;
// The daemon: reloads, changes, the control API and the status page.
pub mod daemon;
// `opb doctor`: what could keep this machine from filtering.
pub mod doctor;
