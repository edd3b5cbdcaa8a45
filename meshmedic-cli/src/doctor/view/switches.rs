// SPDX-License-Identifier: Apache-2.0
//! Switches that istiod is told by variables.

use k8s_openapi::api::core::v1::PodSpec;

use super::View;

/// istiod's switch for ambient mode. It is off where it is not set.
pub(crate) const ENABLE_AMBIENT: &str = "PILOT_ENABLE_AMBIENT";
/// istiod's switch for HBONE that Envoys send. It is on where ambient mode is on.
const ENABLE_SENDING: &str = "PILOT_ENABLE_SENDING_HBONE";

impl View<'_> {
    /// Whether istiod has its Envoys send HBONE: a switch of ambient mode, which is off where nobody turns it on.
    pub(crate) fn envoys_send_hbone(&self) -> bool {
        let said = self.istiod_switch(ENABLE_SENDING);
        said != Some(false) && self.ambient_switch()
    }

    /// Whether istiod has ambient mode on. Where no istiod is to be seen, the ztunnels tell.
    fn ambient_switch(&self) -> bool {
        let unseen = self.istiods().next().is_none() && self.istiod_deployments().next().is_none();
        let ambient = self.ztunnels().next().is_some() || self.ztunnel_sets().next().is_some();
        match self.istiod_switch(ENABLE_AMBIENT) {
            Some(on) => on,
            None => unseen && ambient,
        }
    }

    /// What any istiod is told by a variable; `None` where none is told. One whose value comes from elsewhere counts
    /// as on where a ztunnel is there.
    fn istiod_switch(&self, name: &str) -> Option<bool> {
        let of_pods = self.istiods().filter_map(|pod| pod.pod.spec.as_ref());
        let templates = self
            .istiod_deployments()
            .filter_map(|deployment| deployment.spec.as_ref()?.template.spec.as_ref());
        let said: Vec<bool> = of_pods
            .chain(templates)
            .filter_map(|spec| switch(spec, name, self.ztunnels().next().is_some()))
            .collect();
        (!said.is_empty()).then(|| said.contains(&true))
    }
}

/// What a variable of one of the containers says; `unsaid` where its value is not to be seen.
pub(crate) fn switch(spec: &PodSpec, name: &str, unsaid: bool) -> Option<bool> {
    let mut variables = spec.containers.iter().flat_map(|one| one.env.iter().flatten());
    let variable = variables.find(|variable| variable.name == name)?;
    Some(variable.value.as_deref().map_or(unsaid, |value| value == "true"))
}
