// SPDX-License-Identifier: Apache-2.0
//! A program in a room of its own.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::room::Room;

/// Becomes the program. `arguments`: the room, where the program is in it, and its own.
pub(super) fn run(arguments: &[OsString]) -> io::Result<()> {
    let [room, program, arguments @ ..] = arguments else {
        return Err(io::Error::other("no program to run"));
    };
    let room: Room = serde_json::from_slice(room.as_encoded_bytes())?;
    room.enter()?;
    Err(Command::new(program).args(arguments).exec())
}
