// SPDX-License-Identifier: Apache-2.0
//! Releases of Istio, read from the tags of images.

use std::fmt;

use crate::doctor::view::PodView;

/// A release: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Release(pub(super) u32, pub(super) u32, pub(super) u32);

impl Release {
    /// That of the first container of a pod whose image has this in its name; none where its tag is no release.
    pub(super) fn of_pod(pod: &PodView<'_>, image: &str) -> Option<Self> {
        let spec = pod.pod.spec.as_ref()?;
        let containers = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        let mut images = containers.filter_map(|container| container.image.as_deref());
        images.find(|name| name.contains(image)).and_then(Self::of_image)
    }

    /// `registry:5000/istio/pilot:1.28.3-distroless@sha256:…`. What comes before a release, such as `1.31.0-rc.0` or
    /// `1.32-alpha.…`, has what the release has, or nearly: nothing is said of it.
    pub(super) fn of_image(image: &str) -> Option<Self> {
        let image = image.split('@').next()?;
        let (_, tag) = image
            .rsplit_once('/')
            .map_or(image, |(_, name)| name)
            .split_once(':')?;
        let (numbers, rest) = match tag.split_once('-') {
            Some((numbers, rest)) => (numbers, rest),
            None => (tag, ""),
        };
        if ["alpha", "beta", "rc", "dev"]
            .iter()
            .any(|before| rest.starts_with(before))
        {
            return None;
        }
        Self::of_text(numbers)
    }

    /// `1.28.3` or `v1.28.3`.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        let mut numbers = text
            .trim_start_matches('v')
            .split('.')
            .map(|number| number.parse().ok());
        let release = Self(numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(release)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::Release;

    #[test]
    fn a_release_is_read_from_the_tag_alone() {
        for (image, release) in [
            ("docker.io/istio/pilot:1.28.3", Some(Release(1, 28, 3))),
            (
                "registry:5000/istio/pilot:v1.28.3-distroless@sha256:abc",
                Some(Release(1, 28, 3)),
            ),
            ("istio/ztunnel:1.31.0-rc.0", None),
            ("istio/ztunnel:1.30-alpha.5f2", None),
            ("registry:5000/istio/pilot", None),
            ("istio/pilot:latest", None),
            ("istio/pilot:1.2.3.4", None),
            ("", None),
        ] {
            assert_eq!(Release::of_image(image), release, "{image}");
        }
    }
}
