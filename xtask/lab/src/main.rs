// SPDX-License-Identifier: Apache-2.0
//! The lab's helper processes.

fn main() {}
