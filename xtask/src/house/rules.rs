// SPDX-License-Identifier: Apache-2.0
//! The rules, each a pure function from a file's path and text to what is wrong with it.

use super::code;

/// Takes a file's path and text and says what is wrong.
pub(super) type Rule = fn(path: &str, text: &str) -> Vec<String>;

/// The longest that a Rust file may be, in lines.
const MAX_LINES: usize = 600;

/// Where unsafe code may stand: what begins with one of these.
const UNSAFE_ROOMS: [&str; 6] = [
    "meshmedic-ebpf/",
    "meshmedic-common/src/abi.rs",
    "meshmedic-agent/src/kernel",
    "meshmedic-agent/tests/kernel/calls.rs",
    "meshmedic-agent/tests/kernel/netns.rs",
    "xtask/lab/src/sys",
];

/// Folders that exist on one machine only. Pieced together, or this file would break its own rule.
const MACHINE_FOLDERS: [&str; 3] = [
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
];

/// A Rust file begins with its SPDX line.
pub(super) fn licence_line(path: &str, text: &str) -> Vec<String> {
    if !path.ends_with(".rs") || text.starts_with("// SPDX-License-Identifier: ") {
        return Vec::new();
    }
    vec!["the first line is not `// SPDX-License-Identifier: …`".to_owned()]
}

/// `unsafe` is written in a few rooms only.
pub(super) fn unsafe_rooms(path: &str, text: &str) -> Vec<String> {
    if !path.ends_with(".rs") || UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)) {
        return Vec::new();
    }
    let is_unsafe = |line: &str| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == "unsafe")
    };
    let code = code::bare(text);
    let lines = code.lines().enumerate().filter(|(_, line)| is_unsafe(line));
    lines
        .map(|(at, _)| format!("line {}: unsafe code outside its rooms", at + 1))
        .collect()
}

/// A Rust file is short enough to be read in one go.
pub(super) fn length(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if !path.ends_with(".rs") || lines <= MAX_LINES {
        return Vec::new();
    }
    vec![format!("{lines} lines, and {MAX_LINES} are the most: split it")]
}

/// No absolute path that exists only where somebody once worked.
pub(super) fn machine_paths(_path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for folder in MACHINE_FOLDERS {
            // `/proc/1/root/…` and `https://host/work/…` go on from something; a path of a machine begins.
            let goes_on = |c: char| c.is_alphanumeric() || "_-.*>}])".contains(c);
            let begins = |(start, _): (usize, &str)| !line[..start].chars().next_back().is_some_and(goes_on);
            // Every node of GKE has this one.
            let everywhere = |(start, _): &(usize, &str)| !line[*start..].starts_with("/home/kubernetes/");
            if line.match_indices(folder).filter(everywhere).any(begins) {
                findings.push(format!("line {}: {folder} is a folder of one machine", at + 1));
            }
        }
    }
    findings
}

/// What a workflow runs of others is pinned by a commit: a tag can be moved.
pub(super) fn pinned_actions(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with(".github/workflows/") {
        return Vec::new();
    }
    let is_pinned = |action: &str| {
        let at = action
            .split_whitespace()
            .next()
            .and_then(|action| action.split_once('@'));
        at.is_some_and(|(_, commit)| commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let uses = text.lines().enumerate().filter_map(|(at, line)| {
        let step = line.trim_start().trim_start_matches("- ");
        Some((at, step.strip_prefix("uses:")?.trim()))
    });
    uses.filter(|(_, action)| !action.starts_with("./") && !is_pinned(action))
        .map(|(at, action)| format!("line {}: {action} is pinned by no commit", at + 1))
        .collect()
}

/// A workflow may read and no more, where a job does not say otherwise, and runs nothing of strangers with our rights.
pub(super) fn least_rights(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with(".github/workflows/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if !text.contains("\npermissions:\n  contents: read\n\n") {
        findings.push("no `permissions: contents: read`, and nothing else, above its jobs".to_owned());
    }
    if text.contains("pull_request_target") {
        findings.push("it runs for strangers' pull requests with rights of this repository".to_owned());
    }
    let checkouts = text.matches("uses: actions/checkout@").count();
    if text.matches("persist-credentials: false").count() < checkouts {
        findings.push("a checkout leaves its token behind: `persist-credentials: false`".to_owned());
    }
    findings
}

/// The targets of a document's links to other files, without their anchors.
pub(super) fn relative_links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") {
                links.push(file.to_owned());
            }
        }
    }
    links
}

/// The folders that a workspace's manifest lists as its members.
pub(super) fn members(manifest: &str) -> Vec<String> {
    let Some((_, rest)) = manifest.split_once("\nmembers = [") else {
        return Vec::new();
    };
    let list = rest.split(']').next().unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether a manifest says `[lints]`, `workspace = true`.
pub(super) fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "[lints]")
        .skip(1);
    lines
        .by_ref()
        .take_while(|line| !line.starts_with('['))
        .any(|line| line == "workspace = true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_licence_line_is_found() {
        assert!(licence_line("a.rs", "// SPDX-License-Identifier: Apache-2.0\n").is_empty());
        assert_eq!(licence_line("a.rs", "//! Words.\n").len(), 1);
        assert_eq!(licence_line("a.rs", "").len(), 1);
        assert!(licence_line("a.md", "Words.\n").is_empty());
    }

    #[test]
    fn an_action_without_a_commit_is_found() {
        let path = ".github/workflows/ci.yml";
        let commit = "0400d5f644dc74513175e3cd8d07132dd4860809";
        assert!(pinned_actions(path, &format!("      - uses: actions/cache@{commit} # v4.2.4\n")).is_empty());
        assert!(pinned_actions(path, "      - uses: ./.github/own\n").is_empty());
        for bad in [
            "      - uses: actions/cache@v4\n",
            "        uses: actions/cache\n",
        ] {
            assert_eq!(pinned_actions(path, bad).len(), 1, "{bad}");
        }
        assert!(pinned_actions("docs/a.yml", "- uses: a@v1\n").is_empty());
    }

    #[test]
    fn a_workflow_with_more_rights_than_it_needs_is_found() {
        let path = ".github/workflows/ci.yml";
        let good = "on: push\n\npermissions:\n  contents: read\n\njobs:\n";
        assert!(least_rights(path, good).is_empty());
        for bad in [
            good.replace("read", "write"),
            good.replace("read\n", "read\n  packages: write\n"),
            good.replace("push", "pull_request_target"),
            format!("{good}      - uses: actions/checkout@0\n"),
        ] {
            assert_eq!(least_rights(path, &bad).len(), 1, "{bad}");
        }
        assert!(least_rights("docs/a.yml", "").is_empty());
    }

    #[test]
    fn unsafe_outside_its_rooms_is_found_with_its_line() {
        let bad = "fn a() {\n    unsafe { b() }\n}\n";
        assert_eq!(
            unsafe_rooms("meshmedic-cli/src/main.rs", bad),
            ["line 2: unsafe code outside its rooms"]
        );
        assert_eq!(
            unsafe_rooms("meshmedic-common/src/lib.rs", "unsafe fn a() {}").len(),
            1
        );
        for room in [
            "meshmedic-ebpf/src/main.rs",
            "meshmedic-agent/src/kernel/census.rs",
            "xtask/lab/src/sys.rs",
        ] {
            assert!(unsafe_rooms(room, bad).is_empty(), "{room}");
        }
    }

    #[test]
    fn the_word_unsafe_alone_is_no_unsafe_code() {
        let good = "#![forbid(unsafe_code)]\n// unsafe\nconst A: &str = \"unsafe\";\n";
        assert!(unsafe_rooms("meshmedic-cli/src/main.rs", good).is_empty());
    }

    #[test]
    fn a_file_that_is_too_long_is_found() {
        assert!(length("a.rs", &"\n".repeat(MAX_LINES)).is_empty());
        assert_eq!(length("a.rs", &"\n".repeat(MAX_LINES + 1)).len(), 1);
        assert!(length("a.md", &"\n".repeat(MAX_LINES + 1)).is_empty());
    }

    #[test]
    fn paths_of_a_machine_are_found_and_others_are_not() {
        for folder in MACHINE_FOLDERS {
            for bad in [
                format!("cd {folder}x"),
                format!("{folder}x"),
                format!("\"{folder}x\""),
                format!("A={folder}"),
            ] {
                assert_eq!(machine_paths("a.md", &bad).len(), 1, "{bad}");
            }
            for good in [
                format!("/proc/1{folder}etc"),
                format!("<pid>{folder}"),
                format!("https://a.example{folder}"),
            ] {
                assert!(machine_paths("a.md", &good).is_empty(), "{good}");
            }
        }
    }

    #[test]
    fn links_to_files_are_told_from_others() {
        let text =
            "[a](b.md) ![c](d/e.svg \"t\") [f](#g) [h](i.md#j) [k](https://l.example/m)\n```\n[n](o)\n```\n";
        assert_eq!(relative_links(text), ["b.md", "d/e.svg", "i.md"]);
    }

    #[test]
    fn members_and_their_lints_are_read() {
        assert_eq!(
            members("[workspace]\nmembers = [\"a\",\n \"b/c\"]\nexclude = [\"d\"]\n"),
            ["a", "b/c"]
        );
        assert!(members("[package]\n").is_empty());
        assert!(inherits_lints("[package]\n\n[lints]\nworkspace = true\n"));
        assert!(!inherits_lints("[package]\nname = \"a\"\n"));
        assert!(!inherits_lints("[lints]\n\n[other]\nworkspace = true\n"));
    }
}
