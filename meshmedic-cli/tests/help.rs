// SPDX-License-Identifier: Apache-2.0
//! The help texts, word for word. `UPDATE_GOLDEN=1` writes them anew.

use std::path::Path;
use std::process::Command;

#[test]
fn help_reads_as_recorded_and_fits_its_terminal() {
    for (name, columns, arguments) in [
        ("help", 100, &["--help"][..]),
        ("help-node", 100, &["node", "--help"]),
        ("help-agent", 80, &["agent", "--help"]),
        ("help-scan", 80, &["scan", "--help"]),
    ] {
        let binary = env!("CARGO_BIN_EXE_meshmedic");
        let output = Command::new(binary)
            .args(arguments)
            .env("COLUMNS", columns.to_string())
            .output()
            .unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &help).unwrap();
        }
        assert_eq!(help, std::fs::read_to_string(&golden).unwrap(), "{name}");
        assert!(
            help.lines().all(|line| line.chars().count() <= columns),
            "{name} is too wide:\n{help}"
        );
    }
}
