// SPDX-License-Identifier: Apache-2.0
//! With which code this command ends.

/// Wrong usage, as clap has it.
const USAGE: u8 = 2;
/// Something stayed open: the result is neither clean nor a finding.
pub(crate) const UNDETERMINED: u8 = 3;

/// The codes, for the help.
pub(crate) const CODES: &str = "\
Exit codes of most commands, whatever the output format; --help of each has its
own:
  0  clean, or a loss that is not confirmed yet
  1  an orphan, a partial capture, an imposter or a bypass was found
  2  wrong usage
  3  undetermined: something could not be read, and nothing worse was found";

/// Arguments that are fine one by one and make no sense together, or here.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The code of an error.
pub(crate) fn of(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() { USAGE } else { UNDETERMINED }
}
