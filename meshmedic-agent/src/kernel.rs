// SPDX-License-Identifier: Apache-2.0
//! Loads the kernel programs: the trigger (kernel events) and the census (ztunnel's own listeners).
