// SPDX-License-Identifier: Apache-2.0
//! Sentences that users read: plain, active and short.

use super::code;

/// What reads as translated, and what to write.
const STILTED: [(&str, &str); 16] = [
    ("whoever", "name the one, or \"anyone who\""),
    ("whomever", "name the one"),
    ("somebody", "name the one, or \"someone\""),
    ("nobody", "\"no one\", \"nothing\" or \"only\""),
    ("begun", "\"started\""),
    ("tells of", "\"reports\" or \"describes\""),
    ("tell of", "\"report\" or \"describe\""),
    ("told of", "\"informed of\", or turn the sentence"),
    ("in the place of", "\"instead of\""),
    ("stand in the way", "\"prevent\" or \"block\""),
    ("stands in the way", "\"prevents\" or \"blocks\""),
    ("no way to", "\"cannot\""),
    ("is to be", "\"should be\", or say who does it"),
    ("are to be", "\"should be\", or say who does it"),
    ("by whom", "name the one"),
    ("gone on with", "\"continued\""),
];

/// Whether people read this file as it stands.
fn is_document(path: &str) -> bool {
    let ends = |ends: &[&str]| ends.iter().any(|end| path.ends_with(end));
    ends(&[".md"]) || path.starts_with("deploy/") && ends(&[".yaml", ".json", ".txt"])
}

/// Whether this file's strings reach people; those of tests and of the simulation's judge do not.
fn speaks(path: &str) -> bool {
    let product = [
        "meshmedic-agent/src/",
        "meshmedic-cli/src/",
        "meshmedic-common/src/",
    ];
    let aside = ["/tests", "/planted", "/simulation", "fixtures"];
    path.ends_with(".rs")
        && product.iter().any(|room| path.starts_with(room))
        && !aside.iter().any(|part| path.contains(part))
}

/// No stilted construction stands in a document, a manifest, the help, or a message.
pub(super) fn plain_words(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if is_document(path) {
        // What is generated from the help is a block of code from end to end, and prose all the same.
        let is_help = path == "docs/cli.md";
        let mut fenced = false;
        for (at, line) in text.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            if !fenced || is_help {
                find(&without_code(line), at + 1, &mut findings);
            }
        }
    } else if speaks(path) {
        let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (line, literal) in code::strings(product) {
            find(literal, line, &mut findings);
        }
    }
    findings
}

fn find(text: &str, line: usize, findings: &mut Vec<String>) {
    let text = text.to_lowercase();
    let in_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    for (stilted, better) in STILTED {
        let alone = |(at, _): (usize, &str)| {
            !text[..at].ends_with(in_word) && !text[at + stilted.len()..].starts_with(in_word)
        };
        if text.match_indices(stilted).any(alone) {
            findings.push(format!("line {line}: instead of \"{stilted}\" write {better}"));
        }
    }
}

/// A line of Markdown without what stands between backticks: names are not prose.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("``")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stilted_words_are_found_where_people_read_them() {
        for (path, bad) in [
            ("docs/a.md", "Whoever runs it sees this."),
            ("deploy/a/b.yaml", "# It asks nobody else."),
            ("docs/cli.md", "```\nNo pod is to be touched\n```"),
            ("meshmedic-cli/src/a.rs", "bail!(\"there is no way to\\\n ask\");"),
        ] {
            assert_eq!(plain_words(path, bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn names_code_and_tests_are_no_prose() {
        for (path, good) in [
            ("docs/a.md", "`a_token_touches_nobody` holds it."),
            ("docs/a.md", "```\nnobody\n```"),
            ("meshmedic-cli/src/a.rs", "// nobody\nlet nobody = \"somebodys\";"),
            ("meshmedic-cli/src/a.rs", "#[cfg(test)]\nmod tests { \"nobody\" }"),
            ("meshmedic-cli/tests/a.rs", "\"nobody\""),
        ] {
            assert_eq!(plain_words(path, good), Vec::<String>::new(), "{good}");
        }
    }
}
