// SPDX-License-Identifier: Apache-2.0
//! Records that the kernel could not deliver.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use meshmedic_agent::watch::Event;
use meshmedic_common::report::TriggerMode;
use meshmedic_common::verdict::State;
use meshmedic_lab::{Lab, ZtunnelSpec, need};

use crate::common::{Bench, Patience, QUICK, spec};

/// More than any ring of the agent's holds.
const PAIRS: usize = 12_000;

/// Fails where lost records are not noticed, or nothing makes up for them: all that the kernel could say
/// of the pod was lost, and the next census is half a minute away. Where there is none, only readings are left.
#[test]
fn lost_records_are_counted_and_made_up_for() {
    if !need::ebpf("traps: lost records") {
        return;
    }
    for census in [true, false] {
        lose_records(census);
    }
}

fn lose_records(census: bool) {
    let lab = Lab::isolated().unwrap();
    let (stays, lost) = (lab.pod(spec("stays")).unwrap(), lab.pod(spec("lost")).unwrap());
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&[stays.clone(), lost.clone()]).unwrap();
    let patience = Patience {
        interval: Duration::from_secs(3600),
        census,
        ..QUICK
    };
    let mut bench = Bench::new(&lab, TriggerMode::Ebpf, patience);
    bench.until_all_captured(&[stays.clone(), lost.clone()]);
    let mut made = 0;
    while made < PAIRS {
        match TcpListener::bind("127.77.15.8:15008") {
            Ok(_closed) => made += 1,
            // A process that starts beside this one has a copy of the listener until it is replaced by its program.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => panic!("listen: {error}"),
        }
    }
    ztunnel.unenrol(&lost).unwrap();
    bench.until_told(
        "lost records",
        |event| matches!(event, Event::RecordsLost(count) if *count > 0),
    );
    bench.until_state(&lost, State::Orphan);
    bench.until_captured(&stays);
    assert!(!bench.was(&stays, State::Suspect));
}
