// SPDX-License-Identifier: Apache-2.0
//! The files, as they are and as the tools render them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use meshmedic_lab::ApiServer;
use meshmedic_lab::api::documents;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Longer than it takes a real API server to see a policy.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A file of `deploy/`.
#[track_caller]
pub(crate) fn read(file: &str) -> String {
    let path = root().join("deploy").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The objects of a manifest in `deploy/`.
#[track_caller]
pub(crate) fn objects(file: &str) -> Vec<Value> {
    documents(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Gives the agents of a real API server their account, and what these files of `deploy/` say.
pub(crate) fn install(api: &ApiServer, files: &[&str]) {
    let manifest = objects("meshmedic-daemonset.yaml");
    let account = manifest
        .iter()
        .filter(|object| object["kind"] == "ServiceAccount");
    let more: Vec<Value> = files.iter().flat_map(|file| objects(file)).collect();
    for object in account.chain(&more) {
        api.apply(object).unwrap();
    }
}

/// Grants the agents every right that there is, so that policies alone hold them.
pub(crate) fn grant_all(api: &ApiServer) {
    api.apply_yaml(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: more}, \
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}, \
         subjects: [{kind: ServiceAccount, name: meshmedic, namespace: meshmedic}]}",
    )
    .unwrap();
}

#[track_caller]
pub(crate) fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

pub(crate) fn update() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

/// Compares with a file of the repository; `UPDATE_GOLDEN=1` writes it anew.
#[track_caller]
pub(crate) fn assert_same(file: &str, text: &str) {
    let path = root().join(file);
    if update() {
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "{file} is stale: run this test with UPDATE_GOLDEN=1"
    );
}

/// Something that a tool makes of files here. What it made is committed, with the digest of these files, so that it
/// is known on every machine; where the tool is installed it must make the same again.
pub(crate) struct Rendering {
    /// The recording, in `tests/golden/deploy`.
    pub(crate) name: &'static str,
    /// The folder of `deploy/` with everything that it is made of.
    pub(crate) of: &'static str,
    pub(crate) program: &'static str,
    pub(crate) arguments: &'static [&'static str],
}

const KUSTOMIZE: &str = "kustomize";
const CHART: &str = "helm/meshmedic";

pub(crate) const RENDERINGS: [Rendering; 6] = [
    Rendering {
        name: "kustomize-repair",
        of: KUSTOMIZE,
        program: "kubectl",
        arguments: &["kustomize", "deploy/kustomize/repair"],
    },
    Rendering {
        name: "kustomize-complete",
        of: KUSTOMIZE,
        program: "kubectl",
        arguments: &["kustomize", "deploy/kustomize/complete"],
    },
    helm(
        "helm-detect",
        &["--values", "meshmedic-cli/tests/golden/deploy/detect.values.yaml"],
    ),
    helm(
        "helm-repair",
        &["--values", "meshmedic-cli/tests/golden/deploy/repair.values.yaml"],
    ),
    helm(
        "helm-complete",
        &[
            "--values",
            "meshmedic-cli/tests/golden/deploy/complete.values.yaml",
        ],
    ),
    helm(
        "helm-other",
        &["--values", "meshmedic-cli/tests/golden/deploy/other.values.yaml"],
    ),
];

const fn helm(name: &'static str, arguments: &'static [&'static str]) -> Rendering {
    Rendering {
        name,
        of: CHART,
        program: "helm",
        arguments,
    }
}

impl Rendering {
    fn golden(&self) -> String {
        format!("meshmedic-cli/tests/golden/deploy/{}.yaml", self.name)
    }

    /// The digest of everything that it is made of.
    fn digest(&self) -> String {
        let root = root();
        let mut folders = vec![root.join("deploy").join(self.of)];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                // What people read changes nothing.
                let for_people = path.extension().is_some_and(|extension| extension == "md");
                match path.is_dir() {
                    true => folders.push(path),
                    false if for_people => {}
                    false => files.push(path),
                }
            }
        }
        let values = self
            .arguments
            .iter()
            .filter(|argument| argument.ends_with(".yaml"));
        files.extend(values.map(|file| root.join(file)));
        files.sort();
        let mut digest = Sha256::new();
        for file in files {
            let name = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            digest.update(format!("{name}\n"));
            digest.update(std::fs::read(&file).unwrap());
        }
        digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// What the tool makes of the files now.
    pub(crate) fn render(&self) -> Vec<Value> {
        let mut command = Command::new(self.program);
        command.current_dir(root());
        if self.program == "helm" {
            command.args([
                "template",
                "meshmedic",
                "deploy/helm/meshmedic",
                "--namespace",
                "meshmedic",
            ]);
        }
        let output = command.args(self.arguments).output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", self.name);
        let mut objects = documents(&String::from_utf8(output.stdout).unwrap()).unwrap();
        objects.sort_by_key(|object| format!("{} {}", object["kind"], object["metadata"]["name"]));
        objects
    }

    /// What it made when it was recorded.
    #[track_caller]
    pub(crate) fn recorded(&self) -> Vec<Value> {
        let golden = self.golden();
        let text = std::fs::read_to_string(root().join(&golden)).unwrap_or_default();
        let digest = text
            .lines()
            .find_map(|line| line.strip_prefix("# sha256 of its sources: "));
        assert_eq!(
            digest,
            Some(self.digest().as_str()),
            "{golden} was not recorded from these files: run this test with UPDATE_GOLDEN=1, where {} is installed",
            self.program
        );
        documents(&text).unwrap()
    }

    pub(crate) fn record(&self, objects: &[Value]) {
        let digest = self.digest();
        let mut text = format!(
            "# What {} makes of deploy/{}. Written by a test with UPDATE_GOLDEN=1.\n# sha256 of its sources: {digest}\n",
            self.program, self.of
        );
        for object in objects {
            text += "---\n";
            text += &serde_saphyr::to_string(object).unwrap();
        }
        std::fs::create_dir_all(root().join("meshmedic-cli/tests/golden/deploy")).unwrap();
        std::fs::write(root().join(self.golden()), text).unwrap();
    }
}

/// What was recorded under a name.
#[track_caller]
pub(crate) fn recorded(name: &str) -> Vec<Value> {
    RENDERINGS
        .iter()
        .find(|rendering| rendering.name == name)
        .unwrap()
        .recorded()
}
