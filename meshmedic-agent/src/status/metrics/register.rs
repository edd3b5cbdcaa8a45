// SPDX-License-Identifier: Apache-2.0
//! Which metrics there are, and how they begin.

use std::sync::Mutex;

use meshmedic_common::identity::Component;
use meshmedic_common::report::{BreakerScope, TriggerMode};
use meshmedic_common::verdict::{Condition, State};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::catalogue::Catalogue;
use super::{Inner, Labels, READINGS};

/// Seconds from the kernel's timestamp to a verdict: milliseconds for a suspicion, `--confirm` for the rest.
const DELAYS: [f64; 15] = [
    0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0,
];

/// Seconds outside the mesh: milliseconds by itself, seconds by a heal, minutes and more by nobody.
const OUTSIDE: [f64; 14] = [
    0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 1800.0, 7200.0,
];

fn delays() -> Histogram {
    Histogram::new(DELAYS)
}

impl Inner {
    pub(super) fn register() -> Self {
        let mut c = Catalogue::default();
        let build = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("arch", std::env::consts::ARCH),
        ];
        let build_info: Family<Labels<2>, Gauge> = c.add(
            "meshmedic_build_info",
            &["version", "arch"],
            "Always 1; its labels say what is running",
            Family::default(),
        );
        build_info.get_or_create(&build).set(1);
        Self {
            orphans: c.plain(
                "meshmedic_orphans_total",
                "Pods that fell out of the mesh: orphan, partial, imposter, bypassing or stalled",
            ),
            orphans_ready: c.plain("meshmedic_orphans_ready", "Of meshmedic_orphans_total, those that are Ready"),
            orphans_not_ready: c.plain(
                "meshmedic_orphans_not_ready",
                "Of meshmedic_orphans_total, those that are not Ready",
            ),
            orphans_stuck: c.plain(
                "meshmedic_orphans_stuck",
                "Of meshmedic_orphans_total, those that were not Ready for longer than --grace-period",
            ),
            orphans_repaired: c.add(
                "meshmedic_orphans_repaired_total",
                &["class"],
                "Orphans that were evicted or deleted, class ready or stuck; counted when the repair ends",
                Family::default(),
            ),
            sweeps: c.plain("meshmedic_sweeps_total", "Sweeps over the pods of this node, of /proc or of the census"),
            sweep_errors: c.plain("meshmedic_sweep_errors_total", "Sweeps that could not be done"),
            detection_delay: c.add(
                "meshmedic_detection_delay_seconds",
                &["state"],
                "From the kernel's report of a loss, or the first look that showed it, to the verdict",
                Family::new_with_constructor(delays as fn() -> Histogram),
            ),
            trigger_mode: c.add(
                "meshmedic_trigger_mode",
                &["mode"],
                "1 for how changes are noticed now, ebpf or poll",
                Family::default(),
            ),
            events_seen: c.plain(
                "meshmedic_events_seen_total",
                "Kernel events that belong to a pod",
            ),
            events_lost: c.plain(
                "meshmedic_events_lost_total",
                "Kernel events lost to a full buffer; all pods are read again",
            ),
            kernel_failures: c.plain(
                "meshmedic_kernel_failures_total",
                "Times that the kernel programs failed while running; the agent polls from then on",
            ),
            readings: c.add(
                "meshmedic_readings_total",
                &["result"],
                "Readings of a pod's sockets, by what they showed: complete, partial, none or unreadable",
                Family::default(),
            ),
            looking: c.plain(
                "meshmedic_looking_seconds_total",
                "Processor time spent on looking: readings, censuses, and what follows from them",
            ),
            pods: c.add(
                "meshmedic_pods",
                &["state"],
                "Pods of this node, by state",
                Family::default(),
            ),
            suspects: c.plain("meshmedic_suspects", "Losses that are not confirmed"),
            flaps: c.plain(
                "meshmedic_flaps_total",
                "Losses that ended before they were confirmed",
            ),
            node_fault: c.plain(
                "meshmedic_node_fault",
                "1 while this node's ztunnel or istio-cni is at fault or has not settled",
            ),
            condition: c.add(
                "meshmedic_condition",
                &["condition"],
                "1 while the condition holds: node-fault, mesh-fault, mass-loss, cordoned, paused, identity-conflict, heal-not-permitted, heal-breaker or heal-made-unreachable",
                Family::default(),
            ),
            unverifiable: c.add(
                "meshmedic_pods_unverifiable",
                &["reason"],
                "Pods that should be captured and cannot be read, by reason",
                Family::default(),
            ),
            unredirected: c.plain(
                "meshmedic_pods_unredirected",
                "Captured pods without Istio's routing table: their traffic may bypass ztunnel",
            ),
            rules: c.add(
                "meshmedic_pods_rules",
                &["verdict"],
                "Pods in which ztunnel listens, by whether the kernel shows Istio's redirection rules there: present, absent, fell, differs or unknown",
                Family::default(),
            ),
            connections: c.add(
                "meshmedic_pods_connections",
                &["verdict"],
                "Pods whose connections the kernel counts, by where they go: through ztunnel, past it, or unknown",
                Family::default(),
            ),
            uncounted: c.plain(
                "meshmedic_pods_uncounted",
                "Pods whose connections are not counted, since there are more pods than are",
            ),
            expected: c.plain(
                "meshmedic_pods_expected",
                "Pods of this node that should be captured, by what the API and istio-cni's settings say",
            ),
            identity_conflicts: c.add(
                "meshmedic_identity_conflicts",
                &["component"],
                "Who claims to be ztunnel, istio-cni or istiod and is ignored: on this node, of istiod in the cluster",
                Family::default(),
            ),
            repairs: c.add(
                "meshmedic_repairs_total",
                &["action", "result"],
                "Repairs that ended: evict, delete, or unknown where an agent that ended since began it; and how",
                Family::default(),
            ),
            heals: c.add(
                "meshmedic_heals_total",
                &["result", "reason"],
                "Heals in place: asked (first or second), healed, failed and why, undone, made-unreachable, stopped",
                Family::default(),
            ),
            outside: c.add(
                "meshmedic_outside_mesh_seconds",
                &[],
                "How long a pod was outside the mesh: from the kernel's report of its loss, or the first look that showed it, until it was captured again, by itself or healed in place",
                Histogram::new(OUTSIDE),
            ),
            withheld: c.add(
                "meshmedic_repairs_withheld_total",
                &["rule", "reason", "shadow"],
                "Repairs withheld, counted when the reason comes up or changes; shadow is true while repairs of such pods are off",
                Family::default(),
            ),
            would: c.plain(
                "meshmedic_repairs_would_total",
                "Repairs that would have been done if they were on",
            ),
            in_flight: c.plain("meshmedic_repairs_in_flight", "Repairs under way"),
            breakers: c.add(
                "meshmedic_breakers_open",
                &["scope"],
                "Breakers that are open, as this agent sees them: owner, node or cluster",
                Family::default(),
            ),
            watch_age: c.add(
                "meshmedic_watch_age_seconds",
                &["resource"],
                "How long ago a watch of the API was last heard",
                Family::default(),
            ),
            events_suppressed: c.plain(
                "meshmedic_kube_events_suppressed_total",
                "Kubernetes Events held back so as not to flood the API",
            ),
            memory: Mutex::default(),
            catalogue: c,
        }
    }

    /// Gives the series that are always there their zeros, so that a rate sees the first count.
    pub(super) fn begin(&self) {
        for class in ["ready", "stuck"] {
            drop(self.orphans_repaired.get_or_create(&[("class", class)]));
        }
        for state in State::ALL {
            drop(self.pods.get_or_create(&[("state", state.as_str())]));
            if *state == State::Suspect || state.is_finding() {
                drop(self.detection_delay.get_or_create(&[("state", state.as_str())]));
            }
        }
        for (result, reason) in [("asked", "first"), ("asked", "second"), ("healed", "")] {
            let labels = [("result", result), ("reason", reason)];
            drop(self.heals.get_or_create(&labels));
        }
        for mode in TriggerMode::ALL {
            drop(self.trigger_mode.get_or_create(&[("mode", mode.as_str())]));
        }
        for scope in BreakerScope::ALL {
            drop(self.breakers.get_or_create(&[("scope", scope.as_str())]));
        }
        for condition in Condition::ALL {
            drop(self.condition.get_or_create(&[("condition", condition.as_str())]));
        }
        for component in Component::ALL {
            drop(
                self.identity_conflicts
                    .get_or_create(&[("component", component.as_str())]),
            );
        }
        for result in READINGS {
            drop(self.readings.get_or_create(&[("result", result)]));
        }
    }
}
