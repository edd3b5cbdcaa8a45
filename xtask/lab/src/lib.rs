// SPDX-License-Identifier: Apache-2.0
//! A node without a cluster.
