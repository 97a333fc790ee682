use opb_userspace::daemon::report::CounterLine;

use super::{
    client::Control,
    failure::Failure,
    output::{Format, Output},
};

/// Shows how many packets got which verdict, by group and reason
#[derive(Debug, clap::Args)]
pub(crate) struct Counters {
    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Counters {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        let lines: Vec<CounterLine> = self.control.get("/v1/counters")?;
        let mut output = Output::new();
        if self.format.json {
            lines.iter().try_for_each(|line| output.json(line))?;
        } else if lines.is_empty() {
            output.line("nothing has been counted yet")?;
        } else {
            let header = ["group", "direction", "verdict", "reason", "packets", "bytes"];
            output.table(
                header,
                lines.into_iter().map(|line| {
                    let (packets, bytes) = (line.packets.to_string(), line.bytes.to_string());
                    [line.group, line.direction, line.verdict, line.reason, packets, bytes]
                }),
            )?;
        }
        output.finish()
    }
}
