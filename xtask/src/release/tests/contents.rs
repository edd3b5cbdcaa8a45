// SPDX-License-Identifier: Apache-2.0
//! What the files of a release say, read by others' rules.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::process::Command;

use flate2::read::GzDecoder;
use meshmedic_lab::need;
use serde_json::Value;

use super::{Released, checksums, own_target, released};
use crate::release::VERSION;

fn unpack(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents).unwrap();
        files.insert(path, contents);
    }
    files
}

fn unzip(gzip: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut tar = Vec::new();
    GzDecoder::new(gzip).read_to_end(&mut tar).unwrap();
    unpack(&tar)
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// What a descriptor in a layout describes.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().unwrap();
    &files[&format!("blobs/{}", digest.replace(':', "/"))]
}

/// The digest by which a registry would know the contents of an archive.
fn digest(released: &Released, archive: &str) -> String {
    let files = unpack(&released.read(archive));
    let index = json(&files["index.json"]);
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "{archive}");
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn the_archive_holds_the_program_and_all_licences() {
    let released = released();
    let files = unzip(&released.read(&format!("meshmedic-{VERSION}-{}.tar.gz", own_target())));
    assert!(files["meshmedic"].starts_with(b"\x7fELF"));
    assert!(files.contains_key("LICENSE") && files.contains_key("CHANGELOG.md"));
    let licences = String::from_utf8(files["LICENCES.txt"].clone()).unwrap();
    let list = json(&released.read(&format!("meshmedic-{VERSION}-{}.cdx.json", own_target())));
    for component in list["components"].as_array().unwrap() {
        let line = format!(
            "\n{} {} (",
            component["name"].as_str().unwrap(),
            component["version"].as_str().unwrap()
        );
        assert!(licences.contains(&line), "no licence of{line}");
    }
    let library = String::from_utf8_lossy(&files["LICENCES-rust.html"]).into_owned();
    assert!(library.contains("Copyright"));
}

#[test]
fn both_lists_of_contents_name_the_same() {
    let released = released();
    for base in [
        format!("meshmedic-{VERSION}-{}", own_target()),
        released
            .named("meshmedic-", "64.cdx.json")
            .replace(".cdx.json", ""),
    ] {
        let cyclone = json(&released.read(&format!("{base}.cdx.json")));
        let spdx = json(&released.read(&format!("{base}.spdx.json")));
        assert_eq!(spdx["spdxVersion"], "SPDX-2.3");
        let of = |what: &str| -> Vec<&Value> { spdx[what].as_array().unwrap().iter().collect() };
        let purls: BTreeSet<&str> = of("packages")
            .iter()
            .map(|package| package["externalRefs"][0]["referenceLocator"].as_str().unwrap())
            .collect();
        let components = cyclone["components"].as_array().unwrap();
        let subject = std::iter::once(&cyclone["metadata"]["component"]);
        let wanted: BTreeSet<&str> = components
            .iter()
            .chain(subject)
            .filter_map(|component| component["purl"].as_str())
            .collect();
        assert!(purls.len() > 50);
        assert_eq!(purls, wanted, "{base}");
        let files = components.iter().filter(|component| component["type"] == "file");
        assert_eq!(of("files").len(), files.count(), "{base}");
        // Names are unique, and nothing is said of what is not there.
        let names: BTreeSet<&str> = of("packages")
            .into_iter()
            .chain(of("files"))
            .map(|part| part["SPDXID"].as_str().unwrap())
            .collect();
        assert_eq!(names.len(), of("packages").len() + of("files").len());
        for relation in of("relationships") {
            let [from, to] =
                ["spdxElementId", "relatedSpdxElement"].map(|end| relation[end].as_str().unwrap());
            assert!(names.contains(to), "{relation}");
            assert!(from == "SPDXRef-DOCUMENT" || names.contains(from), "{relation}");
        }
        // The program itself has the digest of the file that runs.
        let program = of("packages")
            .into_iter()
            .find(|package| package["name"] == "meshmedic-cli")
            .unwrap();
        let digest = &cyclone["metadata"]["component"]["hashes"][0]["content"];
        assert_eq!(&program["checksums"][0]["checksumValue"], digest);
    }
}

#[test]
fn the_provenance_speaks_of_every_file_that_users_get() {
    let released = released();
    let statement = json(&released.read("provenance.intoto.json"));
    let subjects: BTreeMap<String, String> = statement["subject"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subject| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&subject["name"]), text(&subject["digest"]["sha256"]))
        })
        .collect();
    let mut wanted = checksums(released);
    // What proves is not what is proved.
    for own in ["provenance.intoto.json", "provenance.sigstore.json", "verify.sh"] {
        assert!(wanted.remove(own).is_some(), "{own}");
    }
    assert_eq!(subjects, wanted);
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let built = &statement["predicate"]["buildDefinition"];
    assert!(built["buildType"].is_string() && built["externalParameters"]["version"] == VERSION);
    assert!(
        built["resolvedDependencies"][0]["digest"]["gitCommit"].is_string(),
        "no commit"
    );
}

#[test]
fn krew_gets_the_archives_as_they_are() {
    let released = released();
    let manifest = yaml(&released.text("meshmedic.yaml"));
    assert_eq!(manifest["spec"]["version"], format!("v{VERSION}"));
    let checksums = checksums(released);
    let platforms = manifest["spec"]["platforms"].as_array().unwrap();
    assert_eq!(platforms.len(), 1, "one program was handed in");
    for platform in platforms {
        let archive = platform["uri"].as_str().unwrap().rsplit('/').next().unwrap();
        assert_eq!(platform["sha256"], checksums[archive]);
        let files = unzip(&released.read(archive));
        assert!(files.contains_key(platform["bin"].as_str().unwrap()));
        assert_eq!(platform["selector"]["matchLabels"]["os"], "linux");
    }
}

#[test]
fn everything_that_installs_pins_the_image_by_its_digest() {
    let released = released();
    let image = format!("meshmedic-{VERSION}-image.tar");
    let digest = digest(released, &image);
    // One name for all processors; what it leads to is what runtimes load.
    let files = unpack(&released.read(&image));
    let index = json(blob(&files, &json(&files["index.json"])["manifests"][0]));
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    let single = released.named("meshmedic-", "64.tar");
    assert_eq!(index["manifests"][0]["digest"], self::digest(released, &single));
    assert_eq!(index["manifests"][0]["platform"]["os"], "linux");
    blob(&files, &json(blob(&files, &index["manifests"][0]))["layers"][0]);

    let pinned = format!("ghcr.io/meshmedic/meshmedic:{VERSION}@{digest}");
    assert!(released.text("meshmedic-daemonset.yaml").contains(&pinned));
    assert!(released.text("notes.md").contains(&pinned));
    let chart = unzip(&released.read(&format!("meshmedic-chart-{VERSION}.tgz")));
    let values = yaml(std::str::from_utf8(&chart["meshmedic/values.yaml"]).unwrap());
    assert_eq!(values["image"]["digest"], digest);
}

#[test]
fn the_chart_tells_artifact_hub_what_changed_and_lies_in_its_registry_s_form() {
    let released = released();
    let tgz = released.read(&format!("meshmedic-chart-{VERSION}.tgz"));
    let chart = unzip(&tgz);
    assert!(chart.contains_key("meshmedic/templates/daemonset.yaml"));
    let description = yaml(std::str::from_utf8(&chart["meshmedic/Chart.yaml"]).unwrap());
    let annotation = |name: &str| {
        yaml(
            description["annotations"][format!("artifacthub.io/{name}")]
                .as_str()
                .unwrap(),
        )
    };
    assert!(annotation("changes").as_array().unwrap().len() > 5);
    assert!(annotation("changes")[0]["description"].is_string());
    assert!(
        annotation("images")[0]["image"]
            .as_str()
            .unwrap()
            .contains("@sha256:")
    );

    let files = unpack(&released.read(&format!("meshmedic-chart-{VERSION}.oci.tar")));
    let named = &json(&files["index.json"])["manifests"][0];
    assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], VERSION);
    let manifest = json(blob(&files, named));
    assert_eq!(
        manifest["config"]["mediaType"],
        "application/vnd.cncf.helm.config.v1+json"
    );
    assert_eq!(json(blob(&files, &manifest["config"])), description);
    assert_eq!(
        manifest["layers"][0]["mediaType"],
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
    );
    assert!(
        blob(&files, &manifest["layers"][0]) == tgz,
        "another chart than the file"
    );
}

#[test]
fn helm_renders_the_packed_chart() {
    if !need::helm("helm_renders_the_packed_chart") {
        return;
    }
    let released = released();
    let chart = released
        .folder
        .path()
        .join(format!("meshmedic-chart-{VERSION}.tgz"));
    let mut helm = Command::new("helm");
    let rendered = helm.args(["template", "meshmedic"]).arg(&chart).output().unwrap();
    assert!(rendered.status.success(), "{rendered:?}");
    let digest = digest(released, &format!("meshmedic-{VERSION}-image.tar"));
    let objects = String::from_utf8(rendered.stdout).unwrap();
    assert!(
        objects.contains(&format!("image: \"ghcr.io/meshmedic/meshmedic@{digest}\""))
            && objects.contains("kind: DaemonSet"),
        "the image is not pinned"
    );
}

#[test]
fn the_kernel_programs_are_those_that_are_committed() {
    let released = released();
    let notes = released.text("notes.md");
    assert!(notes.contains(&checksums(released)["meshmedic.bpf.o"]), "{notes}");
}
