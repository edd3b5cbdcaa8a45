// SPDX-License-Identifier: Apache-2.0
//! The rules of the house, as tests: they look at the sources only, so they run on any machine.

mod circles;
mod code;
mod prose;
mod rules;

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use rules::{Rule, members};

/// A text file of the project.
struct Source {
    /// From the workspace's root, with slashes.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask stands in the workspace")
        .to_owned()
}

/// Every text file but what is built, kept by git, or recorded.
fn sources() -> Vec<Source> {
    let root = root();
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            if entry.file_type().unwrap().is_dir() {
                // `corpus` and `artifacts` are a fuzzer's; fixtures are kept as they were recorded.
                if !["target", ".git", "fixtures", "corpus", "artifacts"]
                    .iter()
                    .any(|skip| name == *skip)
                {
                    folders.push(entry.path());
                }
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                let path = entry
                    .path()
                    .strip_prefix(&root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                sources.push(Source { path, text });
            }
        }
    }
    assert!(
        sources.len() > 20,
        "only {} files were found below {}",
        sources.len(),
        root.display()
    );
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Holds every source against one rule and fails with all that it found.
fn hold(rule: Rule) {
    let findings: Vec<String> = sources()
        .iter()
        .flat_map(|source| {
            rule(&source.path, &source.text)
                .into_iter()
                .map(|finding| format!("{}: {finding}", source.path))
        })
        .collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn every_rust_file_names_its_licence() {
    hold(rules::licence_line);
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    hold(rules::unsafe_rooms);
}

#[test]
fn no_rust_file_is_too_long() {
    hold(rules::length);
}

#[test]
fn no_modules_use_each_other() {
    let sources = sources();
    let mut found = Vec::new();
    for room in [
        "meshmedic-common",
        "meshmedic-agent",
        "meshmedic-cli",
        "meshmedic-ebpf",
        "xtask",
        "xtask/lab",
    ] {
        let folder = format!("{room}/src/");
        let files = sources.iter().filter_map(|source| {
            let path = source.path.strip_prefix(&folder)?;
            path.ends_with(".rs")
                .then(|| (path.to_owned(), source.text.clone()))
        });
        let files: Vec<_> = files.collect();
        assert!(!files.is_empty(), "{folder} has no sources");
        let circles = circles::circles(&files);
        found.extend(circles.into_iter().map(|circle| (room, circle)));
    }
    let found = found
        .iter()
        .map(|(room, circle)| format!("{room}: {}", circle.join(", ")));
    let found: Vec<String> = found.collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    hold(rules::machine_paths);
}

#[test]
fn people_read_plain_words() {
    hold(prose::plain_words);
}

#[test]
fn every_action_is_pinned_by_its_commit() {
    hold(rules::pinned_actions);
}

#[test]
fn every_workflow_has_the_least_rights() {
    hold(rules::least_rights);
}

#[test]
fn every_relative_link_leads_somewhere() {
    let root = root();
    let findings: Vec<String> = sources()
        .iter()
        .filter(|source| source.path.ends_with(".md"))
        .flat_map(|source| {
            let folder = root
                .join(&source.path)
                .parent()
                .expect("a file has a folder")
                .to_owned();
            rules::relative_links(&source.text)
                .into_iter()
                .filter(move |link| !folder.join(link).exists())
                .map(|link| format!("{}: no file at {link}", source.path))
        })
        .collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn every_page_is_in_the_book_once() {
    let root = root();
    let summary = fs::read_to_string(root.join("docs/SUMMARY.md")).unwrap();
    let mut chapters = rules::relative_links(&summary);
    chapters.sort();
    let pages = sources().into_iter().filter_map(|source| {
        let page = source.path.strip_prefix("docs/")?.to_owned();
        (page.ends_with(".md") && page != "SUMMARY.md").then_some(page)
    });
    let mut pages: Vec<String> = pages.collect();
    pages.sort();
    assert_eq!(chapters, pages);
}

#[test]
fn every_task_in_the_documents_is_one_that_there_is() {
    let commands = meshmedic_lab::docs::commands(&root(), &["cargo", "xtask"]).unwrap();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        if let Err(error) = crate::Cli::command().try_get_matches_from(&command.words) {
            assert!(!error.use_stderr(), "{command}: {error}");
        }
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = members(&manifest);
    assert!(members.len() >= 5, "the workspace has its members: {members:?}");
    for member in members {
        let manifest = fs::read_to_string(root().join(&member).join("Cargo.toml")).unwrap();
        assert!(
            rules::inherits_lints(&manifest),
            "{member}/Cargo.toml lacks `[lints]`, `workspace = true`"
        );
    }
}
