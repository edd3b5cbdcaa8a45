// SPDX-License-Identifier: Apache-2.0
//! What is still known of a pod that came back.

use super::*;

/// Fails where the table that a look at the loss missed is said to be missing of the pod that came back.
#[test]
fn a_table_that_the_loss_lacked_is_unknown_after_the_return() {
    let mut sim = Sim::new(1);
    let redirection = |sim: &Sim| sim.engine.view(&sim.pods[0]).unwrap().redirection;
    let bare = |now| Look {
        redirection: Redirection::Absent,
        ..look(now, none())
    };
    let uid = sim.pods[0].clone();
    sim.engine.hint(sim.now, &uid);
    sim.engine.look(sim.now, &uid, bare(sim.now));
    assert_eq!(
        (sim.state(0), redirection(&sim)),
        (State::Suspect, Redirection::Absent)
    );
    sim.now = sim.now + CONFIRM;
    sim.engine.census(sim.now, |_| Some(true));
    assert_eq!(
        (sim.state(0), redirection(&sim)),
        (State::Captured, Redirection::Unknown)
    );
    sim.engine.hint(sim.now, &uid);
    let seen = Look {
        seen: complete(),
        ..bare(sim.now)
    };
    sim.engine.look(sim.now, &uid, seen);
    assert_eq!(
        (sim.state(0), redirection(&sim)),
        (State::Captured, Redirection::Absent),
        "a look at what came back says so"
    );
}
