// SPDX-License-Identifier: Apache-2.0
//! What the mesh stands on, as far as this node shows it: the CNI configuration, and the overlay network.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use meshmedic_common::report::{CniFolder, CniGap, NodeReport, Overlay, Recent};
use meshmedic_common::text::clean;
use serde::Deserialize;

/// A CNI configuration is a page long.
const MAX_FILE: u64 = 1024 * 1024;
/// A folder with more files than this is no CNI folder.
const MAX_FILES: usize = 1000;
/// What is kept of a name, and of how many.
const MAX_NAME: usize = 100;
const MAX_NAMES: usize = 32;
/// What container runtimes take for a configuration.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
const ISTIO_CNI: &str = "istio-cni";
/// How overlay networks name their interfaces.
const OVERLAYS: [&str; 6] = [
    "flannel",
    "vxlan",
    "cilium_vxlan",
    "cilium_geneve",
    "genev_sys",
    "weave",
];
/// The UDP ports of VXLAN, of flannel's, and of Geneve.
const PORTS: [u16; 3] = [4789, 6081, 8472];

/// Where to look at these things: when somebody asks, since until then nobody needs them. Only for gaps in the CNI
/// configuration one must look all the time.
#[derive(Debug)]
pub struct Underneath {
    proc_root: PathBuf,
    cni_folder: Option<PathBuf>,
    /// The last one may not be over.
    gaps: Mutex<Recent<CniGap>>,
}

/// What a look for gaps found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// istio-cni is called no longer.
    Begins,
    /// It is called again.
    Ends(CniGap),
}

impl Underneath {
    /// By a /proc root, and the folder of the CNI configuration where it is mounted.
    #[must_use]
    pub fn new(proc_root: PathBuf, cni_folder: Option<PathBuf>) -> Self {
        Self {
            proc_root,
            cni_folder,
            gaps: Mutex::default(),
        }
    }

    /// Whether gaps can be seen at all.
    #[must_use]
    pub const fn sees_gaps(&self) -> bool {
        self.cni_folder.is_some()
    }

    /// Looks whether istio-cni is called now, and remembers since when it is not. What cannot be read, such as a file
    /// that is being written, changes nothing.
    pub fn look(&self, now: Timestamp) -> Option<Turn> {
        let called = read_cni(self.cni_folder.as_deref()?)?.calls_istio_cni;
        let mut gaps = self.gaps();
        let open = gaps.last_mut().filter(|gap| gap.until.is_none());
        match (open, called) {
            (Some(gap), true) => {
                gap.until = Some(now);
                Some(Turn::Ends(*gap))
            }
            (None, false) => {
                gaps.push(CniGap {
                    from: now,
                    until: None,
                });
                Some(Turn::Begins)
            }
            (Some(_), false) | (None, true) => None,
        }
    }

    fn gaps(&self) -> MutexGuard<'_, Recent<CniGap>> {
        // Each change of it is one step, so a panic elsewhere leaves nothing half done.
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to a report what can be read.
    pub fn describe(&self, report: &mut NodeReport) {
        report.cni_folder = self.cni_folder.as_deref().and_then(read_cni);
        if let Some(folder) = &mut report.cni_folder {
            folder.gaps = self.gaps().clone();
        }
        report.overlay = read_overlay(&self.proc_root);
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    plugins: Vec<Plugin>,
    /// Of a file with a single plugin.
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Plugin {
    #[serde(rename = "type")]
    kind: String,
}

/// As container runtimes do: of the files in the folder the first by name counts. `None` where the folder, or what
/// counts in it, cannot be read.
fn read_cni(folder: &Path) -> Option<CniFolder> {
    let files = fs::read_dir(folder)
        .ok()?
        .take(MAX_FILES)
        .flatten()
        .map(|entry| entry.path());
    let is_config = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| ENDINGS.contains(&ending))
    };
    let Some(path) = files.filter(is_config).min() else {
        return Some(CniFolder::default());
    };
    if fs::metadata(&path).ok()?.len() > MAX_FILE {
        return None;
    }
    let config: Config = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    let kinds = config
        .plugins
        .into_iter()
        .map(|plugin| plugin.kind)
        .chain(config.kind);
    let plugins: Vec<String> = kinds.take(MAX_NAMES).map(|kind| clean(&kind, MAX_NAME)).collect();
    Some(CniFolder {
        file: path
            .file_name()
            .map(|name| clean(&name.to_string_lossy(), MAX_NAME)),
        calls_istio_cni: plugins.iter().any(|kind| kind == ISTIO_CNI),
        plugins,
        gaps: Recent::default(),
    })
}

/// By the tables of the node's first process, which lives in the node's network namespace.
fn read_overlay(proc_root: &Path) -> Option<Overlay> {
    let net = proc_root.join("1/net");
    let devices = fs::read_to_string(net.join("dev")).ok()?;
    let names = devices
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim()));
    let overlay = |name: &&str| OVERLAYS.iter().any(|beginning| name.starts_with(beginning));
    let udp = fs::read_to_string(net.join("udp")).ok()?;
    // Without IPv6 in the kernel there is no such table.
    let udp6 = fs::read_to_string(net.join("udp6")).unwrap_or_default();
    let open: Vec<u16> = udp.lines().chain(udp6.lines()).filter_map(local_port).collect();
    Some(Overlay {
        interfaces: names
            .filter(overlay)
            .take(MAX_NAMES)
            .map(|name| clean(name, MAX_NAME))
            .collect(),
        udp_ports: PORTS.into_iter().filter(|port| open.contains(port)).collect(),
    })
}

/// `12: 00000000:2118 00000000:0000 07 …`
fn local_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    const CHAINED: &str =
        r#"{"plugins": [{"type": "flannel"}, {"type": "portmap"}, {"type": "istio-cni", "x": {}}]}"#;
    const PLAIN: &str = r#"{"cniVersion": "0.3.1", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}"#;

    #[test]
    fn the_first_configuration_by_name_counts() {
        let cni = folder(&[
            ("10-flannel.conflist", CHAINED),
            ("99-loopback.conf", r#"{"type": "loopback"}"#),
            ("00-x", ""),
        ]);
        let seen = read_cni(cni.path()).unwrap();
        assert_eq!(seen.file.as_deref(), Some("10-flannel.conflist"));
        assert!(seen.calls_istio_cni);
        let cni = folder(&[("05-other.conflist", PLAIN), ("10-flannel.conflist", CHAINED)]);
        let seen = read_cni(cni.path()).unwrap();
        assert!(!seen.calls_istio_cni, "the chained one is never called: {seen:?}");
        assert_eq!(seen.plugins, ["flannel", "portmap"]);
        let cni = folder(&[("10-single.conf", r#"{"type": "istio-cni"}"#)]);
        assert!(read_cni(cni.path()).unwrap().calls_istio_cni);
        assert_eq!(read_cni(folder(&[]).path()), Some(CniFolder::default()));
    }

    #[test]
    fn a_gap_is_remembered_with_its_end_and_what_cannot_be_read_changes_nothing() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let cni = folder(&[("10-x.conflist", CHAINED)]);
        let write = |text| fs::write(cni.path().join("10-x.conflist"), text).unwrap();
        let underneath = Underneath::new(PathBuf::new(), Some(cni.path().to_owned()));
        assert_eq!(underneath.look(at(1)), None);
        write(PLAIN);
        assert_eq!(underneath.look(at(2)), Some(Turn::Begins));
        write("{");
        assert_eq!(underneath.look(at(3)), None);
        write(CHAINED);
        let gap = CniGap {
            from: at(2),
            until: Some(at(4)),
        };
        assert_eq!(underneath.look(at(4)), Some(Turn::Ends(gap)));
        assert_eq!(underneath.look(at(5)), None);
        // A sandbox is told to be ready a little after its network was made.
        assert_eq!(
            [1, 2, 4, 9, 10].map(|second| gap.covers(at(second))),
            [false, true, true, true, false]
        );
        for second in 10..60 {
            write(if second % 2 == 0 { PLAIN } else { CHAINED });
            underneath.look(at(second));
        }
        let gaps = underneath.gaps().clone();
        assert_eq!(gaps.iter().last().unwrap().from, at(58));
        assert!(gaps.iter().len() < 25, "only the last ones are remembered");
        assert_eq!(Underneath::new(PathBuf::new(), None).look(at(1)), None);
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        assert_eq!(read_cni(Path::new("/nonexistent")), None);
        for text in ["", "{", "[]", r#"{"plugins": [{}]}"#, r#"{"plugins": 1}"#] {
            assert_eq!(
                read_cni(folder(&[("10-x.conflist", text)]).path()),
                None,
                "{text}"
            );
        }
        assert_eq!(read_overlay(folder(&[("1/net/dev", "")]).path()), None);
    }

    #[test]
    fn the_overlay_is_read_from_the_tables_of_the_node() {
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 1 2\n  eth0: 1 2\nflannel.1: 3 4\n cni0: 1\n";
        let udp = "  sl  local_address rem_address   st\n   1: 00000000:2118 00000000:0000 07\n   2: 0100007F:0035 0:0 07\n";
        let root = folder(&[("1/net/dev", dev), ("1/net/udp", udp)]);
        let seen = read_overlay(root.path()).unwrap();
        assert_eq!(
            (seen.interfaces, seen.udp_ports),
            (vec!["flannel.1".to_owned()], vec![8472])
        );
        let udp6 = "  sl  local_address\n   1: 00000000000000000000000000000000:12B5 0:0 07\n";
        let root = folder(&[("1/net/dev", dev), ("1/net/udp", ""), ("1/net/udp6", udp6)]);
        assert_eq!(read_overlay(root.path()).unwrap().udp_ports, [4789]);
    }

    #[test]
    fn this_machine_has_tables_of_that_shape() {
        assert!(read_overlay(Path::new("/proc")).is_some());
    }
}
