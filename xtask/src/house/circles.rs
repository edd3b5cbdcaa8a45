// SPDX-License-Identifier: Apache-2.0
//! Which modules use which, as their paths say, and the circles among them.
//!
//! What a room uses of itself or of a room around it is no arrow: a child may use what its parent holds. Everything
//! else is one, from a parent to its children as well, so that two rooms that know each other by a detour are found.

use std::collections::{BTreeMap, BTreeSet};

use super::code;

/// A module by its path from the crate's root, such as `["repair", "ledger"]`.
type Module = Vec<String>;

/// The circles among the modules of one crate, each as the modules that are in it. `files` are paths from the crate's
/// folder of sources, with slashes, and their texts.
pub(super) fn circles(files: &[(String, String)]) -> Vec<Vec<String>> {
    let modules: BTreeMap<Module, &str> = files
        .iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| (module(path), text.as_str()))
        .collect();
    let arrows: BTreeMap<&Module, BTreeSet<&Module>> = modules
        .iter()
        .map(|(from, text)| {
            let used = paths(text)
                .into_iter()
                .filter_map(|path| target(from, &path, &modules));
            (from, used.filter(|to| !from.starts_with(to)).collect())
        })
        .collect();
    let reach: BTreeMap<&Module, BTreeSet<&Module>> = arrows
        .keys()
        .map(|from| (*from, reached(from, &arrows)))
        .collect();
    let mut seen = BTreeSet::new();
    let mut circles = Vec::new();
    for (from, reached) in &reach {
        if !reached.contains(from) || !seen.insert(*from) {
            continue;
        }
        let with: Vec<&Module> = reached
            .iter()
            .copied()
            .filter(|other| reach[*other].contains(from))
            .collect();
        seen.extend(with.iter().copied());
        circles.push(with.iter().map(|module| module.join("::")).collect());
    }
    circles
}

fn reached<'a>(
    from: &'a Module,
    arrows: &BTreeMap<&'a Module, BTreeSet<&'a Module>>,
) -> BTreeSet<&'a Module> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&Module> = arrows[from].iter().copied().collect();
    while let Some(module) = next.pop() {
        if found.insert(module) {
            next.extend(arrows.get(module).into_iter().flatten().copied());
        }
    }
    found
}

fn is_test(path: &str) -> bool {
    path.split('/')
        .any(|part| matches!(part, "tests" | "tests.rs" | "testing.rs" | "bin"))
}

/// `repair/ledger.rs` is `repair::ledger`.
fn module(path: &str) -> Module {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let root = matches!(path, "lib" | "main");
    path.split('/').filter(|_| !root).map(str::to_owned).collect()
}

/// Every path that begins at the crate, at this module or above it, braces undone.
fn paths(text: &str) -> Vec<Vec<String>> {
    // Tests at the end of a file are no part of the room.
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code = code::bare(text);
    let mut paths = Vec::new();
    for (start, _) in code.match_indices("::") {
        let before = &code[..start];
        let first = before.len() - before.chars().rev().take_while(|c| is_word(*c)).count();
        let word = &before[first..];
        let begins = !before[..first].trim_end().ends_with("::");
        if begins && matches!(word, "crate" | "super" | "self") {
            expand(vec![word.to_owned()], &code[start + 2..], &mut paths);
        } else if begins && before[..first].trim_end().ends_with("use") {
            // A child, by its name alone.
            expand(
                vec!["self".to_owned(), word.to_owned()],
                &code[start + 2..],
                &mut paths,
            );
        }
    }
    paths
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Adds what `rest` goes on with to the path: one name after the other, or several in braces. Gives what is left.
fn expand<'a>(mut path: Vec<String>, rest: &'a str, paths: &mut Vec<Vec<String>>) -> &'a str {
    let mut rest = rest.trim_start();
    loop {
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside.trim_start();
            while !rest.is_empty() && !rest.starts_with('}') {
                rest = expand(path.clone(), rest, paths).trim_start();
                rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
            }
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        let length = rest.chars().take_while(|c| is_word(*c)).count();
        path.push(rest[..length].to_owned());
        rest = &rest[length..];
        match rest.strip_prefix("::") {
            Some(more) if length > 0 => rest = more.trim_start(),
            _ => {
                paths.push(path);
                // `as other`, or whatever else is no part of the path.
                let end = rest.find([',', '}', ';', '\n']).unwrap_or(rest.len());
                return &rest[end..];
            }
        }
    }
}

/// The module of the crate in which a path ends.
fn target<'a>(from: &Module, path: &[String], modules: &'a BTreeMap<Module, &str>) -> Option<&'a Module> {
    let mut at: Module = match path.first()?.as_str() {
        "crate" => Vec::new(),
        _ => from.clone(),
    };
    let mut names = path.iter().map(String::as_str);
    if path[0] != "super" {
        names.next();
    }
    let mut found = None;
    for name in names {
        if name == "super" {
            at.pop()?;
        } else if name != "self" {
            at.push(name.to_owned());
        }
        match modules.get_key_value(&at) {
            Some((module, _)) => found = Some(module),
            None if name == "super" || name == "self" => {}
            None => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let owned = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        circles(&owned.collect::<Vec<_>>())
    }

    #[test]
    fn two_that_use_each_other_are_a_circle() {
        let found = of(&[
            ("lib.rs", "mod a;\nmod b;\n"),
            ("a.rs", "use crate::b::B;\n"),
            ("b.rs", "use std::fmt;\nuse super::{\n    a::{A, C},\n};\n"),
        ]);
        assert_eq!(found, [["a", "b"]]);
    }

    #[test]
    fn a_detour_through_a_parent_is_a_circle_and_a_child_may_look_up() {
        let up = of(&[
            ("lib.rs", "mod a;\n"),
            ("a.rs", "mod b;\nuse b::B;\n"),
            ("a/b.rs", "use super::A;\nuse crate::Root;\n"),
        ]);
        assert!(up.is_empty(), "{up:?}");
        let detour = of(&[
            ("main.rs", "mod scan;\nmod output;\n"),
            ("scan.rs", "fn f() { crate::output::scan() }\n"),
            ("output.rs", "mod scan;\npub(crate) use scan::scan;\n"),
            ("output/scan.rs", "use crate::scan::Report;\n"),
        ]);
        assert_eq!(detour, [["output::scan", "scan"]]);
    }

    #[test]
    fn words_and_tests_are_no_arrows() {
        let found = of(&[
            ("a.rs", "// use crate::b::B;\nconst A: &str = \"crate::b\";\n"),
            ("b.rs", "use crate::a::A;\n"),
            ("a/tests.rs", "use crate::b::B;\n"),
            ("c.rs", "use crate::d::D;\n"),
            (
                "d.rs",
                "struct D;\n#[cfg(test)]\nmod tests {\n    use crate::c::C;\n}\n",
            ),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }
}
