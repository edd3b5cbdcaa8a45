// SPDX-License-Identifier: Apache-2.0
//! What the kernel programs log, handed on to `tracing`.

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};

use super::KernelError;

/// The reading end of the programs' log.
pub(super) struct Logs(EbpfLogger<ToTracing>);

impl Logs {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        EbpfLogger::init_with_logger(ebpf, ToTracing)
            .map(Self)
            .map_err(|error| KernelError::from_load("read the log of the kernel programs", &error))
    }

    /// Hands on all that there is.
    pub(super) fn flush(&mut self) {
        self.0.flush();
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args();
        match record.level() {
            Level::Error => tracing::error!(target: "meshmedic_ebpf", "{text}"),
            Level::Warn => tracing::warn!(target: "meshmedic_ebpf", "{text}"),
            Level::Info => tracing::info!(target: "meshmedic_ebpf", "{text}"),
            Level::Debug => tracing::debug!(target: "meshmedic_ebpf", "{text}"),
            Level::Trace => tracing::trace!(target: "meshmedic_ebpf", "{text}"),
        }
    }

    fn flush(&self) {}
}
