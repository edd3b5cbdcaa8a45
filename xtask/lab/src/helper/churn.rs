// SPDX-License-Identifier: Apache-2.0
//! Sockets that come and go, as many a second as is asked for.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::sockets;
use crate::protocol::Churn;

/// So many are done between two looks at the clock.
const BURST: u32 = 50;

/// Opens and closes.
pub(super) fn run(churn: &Churn) -> io::Result<()> {
    let peer = sockets::listen(SocketAddr::from(([127, 0, 0, 1], 0)), false, false)?;
    let to = sockets::local(&peer)?;
    let start = Instant::now();
    for number in 0..churn.times {
        if number % BURST == 0
            && let Some(per_second) = churn.per_second
        {
            let due = start + Duration::from_secs(1) * number / per_second.max(1);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        match churn.listen {
            Some(address) => drop(sockets::listen(address, true, false)?),
            None => {
                let client = sockets::connect(to)?;
                drop((rustix::net::accept(&peer)?, client));
            }
        }
    }
    Ok(())
}
