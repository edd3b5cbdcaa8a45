// SPDX-License-Identifier: Apache-2.0
//! Keys, read by a thread of their own: nothing but a key wakes whoever reads a terminal.

use console::{Key, Term};
use tokio::sync::mpsc::{Receiver, channel};

/// More than a person types while one screen is drawn.
const AHEAD: usize = 64;

/// Starts to read keys. The thread ends with the program, or when the terminal does.
pub(super) fn listen() -> std::io::Result<Receiver<Key>> {
    let (to, keys) = channel(AHEAD);
    let read = move || {
        let term = Term::stdout();
        while let Ok(key) = term.read_key_raw() {
            if to.blocking_send(key).is_err() {
                break;
            }
        }
    };
    std::thread::Builder::new().name("keys".to_owned()).spawn(read)?;
    Ok(keys)
}
