// SPDX-License-Identifier: Apache-2.0
//! The program `meshmedic`.

fn main() -> std::process::ExitCode {
    meshmedic_cli::main()
}
