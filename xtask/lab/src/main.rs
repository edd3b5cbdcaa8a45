// SPDX-License-Identifier: Apache-2.0
//! The lab's helper processes, each started by the library, and a node to try things out on.

mod node;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("node") {
        node::main(arguments)
    } else {
        meshmedic_lab::helper::main()
    }
}
