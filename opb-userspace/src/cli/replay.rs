use super::failure::Failure;
#[derive(Debug, clap::Args)]
pub(crate) struct Replay {}
impl Replay {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        Ok(())
    }
}
