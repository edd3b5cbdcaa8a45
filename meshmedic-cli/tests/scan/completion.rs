// SPDX-License-Identifier: Apache-2.0
//! What a shell and kubectl offer while one types.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use meshmedic_lab::Exec;
use serde_json::json;

use crate::world::{World, assert_says, meshmedic};

/// What kubectl is offered after these words, and what it shall do with it.
fn kubectl(world: &World, words: &[&str]) -> (Vec<String>, String) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("kubectl_complete-meshmedic");
    symlink(env!("CARGO_BIN_EXE_meshmedic"), &program).unwrap();
    let output = Command::new(&program)
        .args(words)
        .env("KUBECONFIG", world.api.kubeconfig())
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let directive = lines.pop().unwrap();
    let value = |line: String| line.split('\t').next().unwrap_or_default().to_owned();
    (lines.into_iter().map(value).collect(), directive)
}

/// What bash fills in after these words.
fn bash(program: &Path, kubeconfig: &Path, words: &str) -> Vec<String> {
    let script = format!(
        "source <(meshmedic completion bash); COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         _clap_complete_meshmedic meshmedic \"${{COMP_WORDS[COMP_CWORD]}}\"; printf '%s\\n' ${{COMPREPLY[@]+\"${{COMPREPLY[@]}}\"}}"
    );
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("bash")
        .args(["-c", &script])
        .env("PATH", format!("{}:{path}", program.parent().unwrap().display()))
        .env("KUBECONFIG", kubeconfig)
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| line.trim_end().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

fn world() -> World {
    let world = World::new();
    world.pod("cart-1", Exec::captured());
    world.pod("cart-2", Exec::captured());
    world.pod("pay-1", Exec::captured());
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-a" } });
    world.api.create(&node).unwrap();
    world
}

#[test]
fn kubectl_offers_names_of_the_cluster() {
    let world = world();
    let names = |words: &[&str]| kubectl(&world, words).0;
    assert_eq!(names(&["explain", "-n", "shop", "ca"]), ["cart-1", "cart-2"]);
    assert_eq!(names(&["scan", "-n", "sh"]), ["shop"]);
    assert_eq!(names(&["scan", "--node", ""]), ["node-a"]);
    assert_eq!(names(&["explain", "shop/p"]), ["shop/pay-1"]);
    // A namespace goes on with a pod: no blank after it, and no files.
    assert_eq!(
        kubectl(&world, &["explain", "sh"]),
        (vec!["shop/".to_owned()], ":6".to_owned())
    );
    let (commands, directive) = kubectl(&world, &[""]);
    assert_eq!(directive, ":4");
    assert!(commands.iter().any(|name| name == "doctor"), "{commands:?}");
    assert!(
        !commands.iter().any(|name| name == "print-sockets"),
        "{commands:?}"
    );
    assert!(names(&["scan", "--con"]).contains(&"--context".to_owned()));
    let contexts = names(&["scan", "--context", ""]);
    assert_eq!(contexts.len(), 1, "{contexts:?}");
}

#[test]
fn a_cluster_that_is_away_leaves_the_flags() {
    let output = meshmedic(["completion", "bash"]).output().unwrap();
    assert!(output.status.success(), "the script needs no cluster");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("meshmedic");
    symlink(env!("CARGO_BIN_EXE_meshmedic"), &program).unwrap();
    let away = folder.path().join("config");
    std::fs::write(&away, "no kubeconfig at all").unwrap();
    assert_eq!(
        bash(&program, &away, "meshmedic explain -n s"),
        Vec::<String>::new()
    );
    assert_eq!(bash(&program, &away, "meshmedic explain --conf"), ["--confirm"]);
}

#[test]
fn a_shell_fills_in_names_of_the_cluster() {
    let world = world();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("meshmedic");
    symlink(env!("CARGO_BIN_EXE_meshmedic"), &program).unwrap();
    let fill = |words: &str| bash(&program, world.api.kubeconfig(), words);
    assert_eq!(fill("meshmedic prove -n shop ca"), ["cart-1", "cart-2"]);
    assert_eq!(fill("meshmedic comp"), ["completion"]);
    for (shell, word) in [("zsh", "#compdef meshmedic"), ("fish", "complete --keep-order")] {
        let output = meshmedic(["completion", shell]).output().unwrap();
        assert_says(&String::from_utf8(output.stdout).unwrap(), &[word]);
    }
}
