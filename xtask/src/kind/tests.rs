// SPDX-License-Identifier: Apache-2.0
//! What of the plans can be tested without Docker. `UPDATE_GOLDEN=1` writes the recorded plans anew.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use meshmedic_lab::{Cluster, ClusterSpec, need};

use super::Way;
use super::plan::{APPLICATION, CLUSTER, DETECT, Installer, Plan, REPAIR};
use super::run;
use super::step::{Line, Shows, Step};
use super::tools::Found;
use crate::workspace::workspace_root;

fn plans() -> Vec<(&'static str, Vec<Step>)> {
    let root = Path::new("/project");
    let plan = |installer| Plan::in_folder(root, Path::new("target/kind"), "meshmedic", installer);
    let istioctl = plan(Installer::Istioctl);
    vec![
        ("up", istioctl.up()),
        ("up-helm", plan(Installer::Helm).up()),
        ("load", istioctl.load()),
        ("break-listeners", istioctl.break_pod(Way::Listeners)),
        ("break-restart", istioctl.break_pod(Way::Restart)),
        ("e2e", istioctl.e2e()),
        ("down", istioctl.down()),
    ]
}

fn script(steps: &[Step]) -> String {
    let lines: Vec<String> = steps.iter().map(Step::to_string).collect();
    // The image is this machine's, and the record has one for all.
    lines.join("\n").replace("-linux-arm64.tar", "-linux-amd64.tar") + "\n"
}

fn line<const N: usize>(words: [&str; N]) -> Line {
    Line(words.map(str::to_owned).into())
}

#[test]
fn the_plans_are_as_recorded() {
    for (name, steps) in plans() {
        let script = script(&steps);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/kind/golden/{name}.sh"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &script).unwrap();
        }
        assert_eq!(script, fs::read_to_string(&golden).unwrap(), "{name}");
    }
}

#[test]
fn a_shell_would_take_the_plans() {
    for (name, steps) in plans() {
        let mut shell = Command::new("sh")
            .args(["-e", "-u", "-n"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        shell
            .stdin
            .take()
            .unwrap()
            .write_all(script(&steps).as_bytes())
            .unwrap();
        assert!(shell.wait().unwrap().success(), "{name}");
    }
}

/// A shell would stumble over one that is not set (`-u`), and so would the cluster.
#[test]
fn nothing_is_used_before_it_is_remembered() {
    for (name, steps) in plans() {
        let mut remembered: Vec<(&'static str, String)> = Vec::new();
        for step in steps {
            let line = match &step {
                Step::Say(_) | Step::Mark(_) => continue,
                Step::Run(line)
                | Step::Expect(line, _)
                | Step::Remember(_, line)
                | Step::Until { line, .. } => line.with(&remembered),
            };
            assert!(!line.0.iter().any(|word| word.contains('$')), "{name}: {line}");
            if let Step::Remember(name, _) = step {
                remembered.push((name, "x".to_owned()));
            }
        }
    }
}

#[test]
fn what_is_applied_is_there_and_is_yaml() {
    let root = workspace_root().unwrap();
    for file in [CLUSTER, APPLICATION, DETECT] {
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let documents =
            meshmedic_lab::api::documents(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(!documents.is_empty(), "{file}");
        for document in &documents {
            assert!(
                document["kind"].is_string() && document["apiVersion"].is_string(),
                "{file}"
            );
        }
        if file == CLUSTER {
            let nodes = documents[0]["nodes"].as_array().unwrap();
            let roles: Vec<_> = nodes.iter().map(|node| node["role"].as_str().unwrap()).collect();
            assert_eq!(roles, ["control-plane", "worker", "worker"]);
            // The alias of the first one's image is followed.
            let image = |node: &serde_json::Value| node["image"].as_str().unwrap_or_default().to_owned();
            assert!(
                nodes.iter().all(|node| image(node).contains("@sha256:")),
                "{nodes:?}"
            );
        }
    }
    assert!(root.join(REPAIR).join("kustomization.yaml").is_file());
}

#[test]
fn all_that_is_missing_is_said_at_once_with_where_to_get_it() {
    let (_, up) = plans().swap_remove(0);
    let error = Found::on(OsStr::new("")).demand(&up).unwrap_err().to_string();
    for said in [
        "docker: https://",
        "kind: https://",
        "kubectl: https://",
        "istioctl or helm, for Istio: https://",
    ] {
        assert!(error.contains(said), "{error}");
    }
    assert!(error.contains("--dry-run"), "{error}");
    assert!(!error.contains("  helm:"), "one of the two is enough: {error}");
}

#[test]
fn an_engine_that_is_silent_is_missing_too() {
    let demand = |docker: &str| {
        let folder = tempfile::tempdir().unwrap();
        for (tool, program) in [("docker", docker), ("kind", "/bin/true")] {
            symlink(program, folder.path().join(tool)).unwrap();
        }
        let (_, down) = plans().pop().unwrap();
        Found::on(folder.path().as_os_str()).demand(&down)
    };
    demand("/bin/true").unwrap();
    let error = demand("/bin/false").unwrap_err().to_string();
    assert!(error.contains("a Docker engine that answers"), "{error}");
    assert!(!error.contains("  kind:"), "{error}");
}

#[test]
fn a_plan_is_carried_out_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let steps = [
        Step::Say("a heading".to_owned()),
        Step::Remember("FILE", line(["echo", "before"])),
        Step::Remember("FILE", line(["echo", "made"])),
        Step::Mark("nothing"),
        Step::Run(line(["touch", "$FILE"])),
        Step::Expect(line(["sh", "-c", "exit 3"]), Shows::Exit(3)),
        // It succeeds the third time.
        Step::Until {
            what: "three looks",
            line: line(["sh", "-c", "echo x >> looks; wc -l < looks"]),
            shows: Shows::Text("3".to_owned()),
            within: Duration::from_secs(60),
        },
        Step::Until {
            what: "",
            line: line(["true"]),
            shows: Shows::Nothing,
            within: Duration::ZERO,
        },
    ];
    run::carry_out(&steps, folder.path()).unwrap();
    assert!(folder.path().join("made").exists());
    assert_eq!(
        fs::read_to_string(folder.path().join("looks")).unwrap(),
        "x\nx\nx\n"
    );
}

#[test]
fn a_step_that_goes_wrong_ends_the_plan_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let until = |shows| Step::Until {
        what: "never",
        line: line(["sh", "-c", "echo seen; exit 1"]),
        shows,
        within: Duration::ZERO,
    };
    for (step, said) in [
        (Step::Run(line(["false"])), "failed"),
        (Step::Run(line(["meshmedic-no-such-program"])), "cannot start"),
        (
            Step::Expect(line(["true"]), Shows::Exit(1)),
            "was to show exit code 1",
        ),
        (Step::Remember("X", line(["true"])), "was to print something"),
        (Step::Remember("X", line(["false"])), "was to print something"),
        // What a command printed that failed does not count.
        (until(Shows::Something), "did not show some output"),
        (until(Shows::Nothing), "seen"),
        (until(Shows::Text("seen".to_owned())), "did not show seen"),
    ] {
        let after = Step::Run(line(["touch", "after"]));
        let error = run::carry_out(&[step.clone(), after], folder.path()).expect_err(&step.to_string());
        assert!(format!("{error:#}").contains(said), "{step}: {error:#}");
        assert!(!folder.path().join("after").exists(), "{step}");
    }
}

/// The commands that break a pod, given to the real kubectl, on the lab's API server and with its stand-in for Istio.
#[test]
fn the_commands_make_an_orphan() {
    let test = "the_commands_make_an_orphan";
    if !need::root(test) || !need::kubectl(test) {
        return;
    }
    let cluster = Cluster::start(ClusterSpec::default()).unwrap();
    cluster.namespace("meshmedic-sample", true).unwrap();
    cluster.deployment("meshmedic-sample", "echo", 1).unwrap();
    let pod = cluster
        .wait_captured("meshmedic-sample", "echo", 1)
        .unwrap()
        .remove(0);
    let kubeconfig = cluster.api().kubeconfig_for_kubectl().unwrap();

    let steps = plans()
        .into_iter()
        .find(|(name, _)| *name == "break-listeners")
        .unwrap()
        .1;
    let mut steps: Vec<Step> = steps;
    for step in &mut steps {
        if let Step::Run(line) | Step::Remember(_, line) | Step::Until { line, .. } = step {
            *line.0.last_mut().unwrap() = kubeconfig.display().to_string();
        }
    }
    let last = steps.pop().unwrap();
    let folder = tempfile::tempdir().unwrap();
    run::carry_out(&steps, folder.path()).unwrap();
    assert!(!cluster.is_captured(&pod));
    // The lab's istio-cni goes by what it did itself, where the real one compares label and annotation; so it looks
    // away here, as the real one does.
    cluster.set_cni(false);
    let name = Step::Remember("POD", line(["echo", pod.name()]));
    run::carry_out(&[name, last], folder.path()).unwrap();

    let object = cluster.api().get("pods", "meshmedic-sample", pod.name()).unwrap();
    assert_eq!(
        object["metadata"]["annotations"]["ambient.istio.io/redirection"],
        "enabled"
    );
    assert!(object["metadata"]["labels"]["istio.io/dataplane-mode"].is_null());
    assert!(
        !cluster.is_captured(&pod),
        "annotated, wanted, and out of the mesh"
    );
}
