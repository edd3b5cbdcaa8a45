// SPDX-License-Identifier: Apache-2.0
//! The help texts, word for word. `UPDATE_GOLDEN=1` writes them anew.

use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn help_reads_as_recorded_and_fits_its_terminal() {
    for (name, columns, arguments) in [
        ("help", 100, &["--help"][..]),
        ("help-node", 100, &["node", "--help"]),
        ("help-agent", 80, &["agent", "--help"]),
        ("help-scan", 80, &["scan", "--help"]),
        ("help-repair", 80, &["repair", "--help"]),
        ("help-undo", 80, &["undo", "--help"]),
        ("help-status", 80, &["status", "--help"]),
        ("help-watch", 80, &["watch", "--help"]),
        ("help-explain", 80, &["explain", "--help"]),
        ("help-prove", 80, &["prove", "--help"]),
        ("help-doctor", 80, &["doctor", "--help"]),
        ("help-install", 80, &["install", "--help"]),
        ("help-pause", 80, &["pause", "--help"]),
        ("help-resume", 80, &["resume", "--help"]),
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

#[test]
fn the_page_of_commands_is_fresh() {
    let output = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
        .arg("cli-page")
        .output()
        .unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let found = std::fs::read_to_string(file).unwrap_or_default();
    assert!(found == page, "docs/cli.md is stale: run `cargo xtask docs`");
    for command in [
        "agent", "node", "scan", "repair", "undo", "status", "explain", "prove", "install", "pause", "resume",
    ] {
        assert!(page.contains(&format!("\n## meshmedic {command}\n")), "{command}");
    }
    assert!(!page.contains("print-sockets"), "what is hidden is not there");
}

#[test]
fn each_command_has_a_manual_page() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("man-{}", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
        .arg("man-pages")
        .arg(&folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    for command in [
        "", "-scan", "-repair", "-status", "-explain", "-prove", "-doctor", "-pause", "-resume", "-agent",
        "-node",
    ] {
        let page = std::fs::read_to_string(folder.join(format!("meshmedic{command}.1"))).unwrap();
        assert!(page.contains(".SH NAME"), "{command}");
    }
    let page = std::fs::read_to_string(folder.join("meshmedic-repair.1")).unwrap();
    assert!(page.contains("delete\\-past\\-disruption\\-budgets"), "{page}");
    assert!(
        !folder.join("meshmedic-print-sockets.1").exists(),
        "what is hidden has none"
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Help is a result like any other.
#[test]
fn help_that_cannot_be_written_is_no_success() {
    let into = |words: &[&str], path: &str| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshmedic"));
        let output = command
            .args(words)
            .stdout(file)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for words in [&["--help"][..], &["help"], &["scan", "--help"], &["--version"]] {
        let (code, said) = into(words, "/dev/full");
        assert_eq!(code, Some(3), "{words:?}: {said}");
        assert!(
            said.contains("the help cannot be written: No space left"),
            "{said}"
        );
        assert_eq!(into(words, "/dev/null").0, Some(0), "{words:?}");
    }
    assert_eq!(
        into(&["scan", "--nonsense"], "/dev/full").0,
        Some(2),
        "that goes to stderr"
    );
}
