// SPDX-License-Identifier: Apache-2.0
//! MeshMedic's node agent as a library.

pub mod kernel;
