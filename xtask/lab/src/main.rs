// SPDX-License-Identifier: Apache-2.0
//! The lab's helper processes: each is started by the library and ends when its standard input does.

use std::process::ExitCode;

fn main() -> ExitCode {
    meshmedic_lab::helper::main()
}
