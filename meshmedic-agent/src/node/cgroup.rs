// SPDX-License-Identifier: Apache-2.0
//! Which pod a process belongs to, from `/proc/<pid>/cgroup`.

use meshmedic_common::uid::PodUid;

/// What a process's cgroup says of its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPod {
    /// The pod.
    pub uid: PodUid,
    /// The container, where the path names one.
    pub container: Option<String>,
}

/// Reads `/proc/<pid>/cgroup`, version 1 or 2.
///
/// `None` for a process of no pod, and for one whose hierarchies name different pods: such a process
/// is about to be moved or was moved by hand, and proves nothing.
#[must_use]
pub fn parse_cgroup(text: &str) -> Option<CgroupPod> {
    let mut found: Option<CgroupPod> = None;
    for line in text.lines() {
        // hierarchy:controllers:path, where the path may contain colons itself
        let Some(path) = line.splitn(3, ':').nth(2) else {
            continue;
        };
        let Some(pod) = parse_path(path) else { continue };
        match &found {
            None => found = Some(pod),
            Some(known) if known.uid != pod.uid => return None,
            Some(_) => {}
        }
    }
    found
}

/// Finds `pod<uid>` in a path. The outermost counts: a cluster inside a pod has pods of its own, and
/// to this node all of its processes belong to the pod around it.
fn parse_path(path: &str) -> Option<CgroupPod> {
    let mut at = 0;
    while let Some(offset) = path[at..].find("pod") {
        let start = at + offset;
        at = start + "pod".len();
        let begins = path[..start]
            .chars()
            .next_back()
            .is_none_or(|c| c.is_ascii_punctuation());
        if !begins {
            continue;
        }
        if let Some((uid, rest)) = PodUid::split_from(&path[at..])
            && rest.chars().next().is_none_or(|c| c.is_ascii_punctuation())
        {
            return Some(CgroupPod {
                uid,
                container: container(rest),
            });
        }
    }
    None
}

/// The first container id behind the pod: 64 hexadecimal digits, whatever is written around them
/// (`cri-containerd-<id>.scope`, `:cri-containerd:<id>`, `<id>/init.scope`).
fn container(rest: &str) -> Option<String> {
    rest.split(|c: char| !c.is_ascii_alphanumeric())
        .find(|word| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DASHED: &str = "6f3d2b1a-0c4e-4a8b-9d7f-5e2c1b0a9f8e";
    const SCORED: &str = "6f3d2b1a_0c4e_4a8b_9d7f_5e2c1b0a9f8e";
    const HASH: &str = "6f3d2b1a0c4e4a8b9d7f5e2c1b0a9f8e";
    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn uid(line: &str) -> Option<String> {
        parse_cgroup(line).map(|pod| pod.uid.to_string())
    }

    #[test]
    fn every_shape_gives_the_pod_and_the_container() {
        let shapes = [
            format!("0::/kubepods/burstable/pod{DASHED}/{ID}"),
            format!("0::/kubepods/pod{DASHED}/{ID}"),
            format!("12:pids:/docker/{ID}/kubepods/besteffort/pod{DASHED}/{ID}"),
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SCORED}.slice/docker-{ID}.scope"
            ),
            format!("0::/kubepods.slice/kubepods-pod{SCORED}.slice/cri-containerd-{ID}.scope"),
            format!("1:name=systemd:/kubepods-besteffort-pod{SCORED}.slice:cri-containerd:{ID}"),
            format!("0::/../../pod{DASHED}/{ID}"),
            format!(
                "0::/system.slice/docker-{ID}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{SCORED}.slice/cri-containerd-{ID}.scope"
            ),
            format!(
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SCORED}.slice/crio-{ID}.scope/container"
            ),
            format!("0::/kubepods.slice/kubepods-pod{SCORED}.slice/crio-conmon-{ID}.scope"),
            format!("0::/kubepods/burstable/pod{DASHED}/{ID}/init.scope"),
        ];
        for shape in shapes {
            let pod = parse_cgroup(&shape).unwrap_or_else(|| panic!("{shape}"));
            assert_eq!(
                (pod.uid.as_str(), pod.container.as_deref()),
                (DASHED, Some(ID)),
                "{shape}"
            );
        }
    }

    #[test]
    fn a_static_pod_is_known_by_its_config_hash() {
        for shape in [
            format!("0::/kubepods/burstable/pod{HASH}/{ID}"),
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/cri-containerd-{ID}.scope"
            ),
        ] {
            assert_eq!(uid(&shape).as_deref(), Some(HASH), "{shape}");
        }
    }

    #[test]
    fn all_hierarchies_of_version_1_must_agree() {
        let other = DASHED.replace('6', "7");
        let line = |n: u8, uid: &str| format!("{n}:c{n}:/kubepods/pod{uid}/{ID}\n");
        let same = format!(
            "{}{}3:cpuset:/\n0::/init.scope\n",
            line(1, DASHED),
            line(2, DASHED)
        );
        assert_eq!(uid(&same).as_deref(), Some(DASHED));
        assert_eq!(uid(&format!("{}{}", line(1, DASHED), line(2, &other))), None);
    }

    #[test]
    fn the_node_s_own_pod_counts_not_one_of_a_cluster_inside_it() {
        let inner = DASHED.replace('6', "7");
        let path = format!("0::/kubepods/pod{DASHED}/{ID}/kubepods/besteffort/pod{inner}/{ID}");
        assert_eq!(uid(&path).as_deref(), Some(DASHED));
    }

    #[test]
    fn what_names_no_pod_gives_none() {
        let none = [
            "0::/".to_owned(),
            "0::/system.slice/kubelet.service".to_owned(),
            format!("0::/../crio-{ID}.scope"),
            format!("0::/kubepods/burstable/tripod{DASHED}/{ID}"),
            format!("0::/kubepods/burstable/pod{DASHED}f/{ID}"),
            "0::/kubepods/burstable/podcast".to_owned(),
            "no colons at all".to_owned(),
            "0::/kubepods/podéééééééééééééééééééé".to_owned(),
            String::new(),
        ];
        for path in none {
            assert_eq!(uid(&path), None, "{path}");
        }
    }
}
