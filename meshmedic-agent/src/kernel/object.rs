// SPDX-License-Identifier: Apache-2.0
//! The compiled kernel programs, and how they come into the kernel.

use std::{fs, io, path::Path};

use aya::{
    Btf, Ebpf, EbpfLoader, Endianness,
    maps::Map,
    programs::{BtfTracePoint, Iter, Program, ProgramError, ProgramFd},
};

use btf_rs::Backend;

use super::{
    Census, Kernel, KernelError, Options, Traffic, Trigger, bpf, layout::Layout, log::Logs, offsets,
};

/// What `cargo xtask ebpf` built.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../meshmedic-ebpf/object/meshmedic.bpf.o");

/// Global of ours: whether the census reads the packet filter's hooks.
const RULES_READ: &str = "RULES_READ";
/// Global of ours: whether the trigger counts connections.
const CONNECTIONS_COUNTED: &str = "CONNECTIONS_COUNTED";
/// Global of `aya-log-ebpf` that holds the level; 0 is off.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
/// Its ring buffer.
const LOG_MAP: &str = "AYA_LOGS";
/// Where a namespace's connections are counted, and the counts.
const TRAFFIC_SLOTS: &str = "TRAFFIC_SLOTS";
const TRAFFIC: &str = "TRAFFIC";
/// The smallest ring buffer that any page size allows: it is made even where logging is off.
const LOG_BYTES_OFF: u32 = 64 * 1024;

const MAKE_MAPS: &str = "make the maps of the kernel programs";
const LOAD_TRIGGER: &str = "load the tracepoint program on inet_sock_set_state";
const ATTACH_TRIGGER: &str = "attach to the tracepoint inet_sock_set_state";
const LOAD_CENSUS: &str = "load the iterator over task_file";
/// The program that reads the packet filter where there is no listener.
const FILTERS: &str = "filters";

/// Loads both programs and attaches the trigger.
///
/// # Errors
/// Where this kernel, or what this process may do on it, does not allow it.
pub fn load(options: &Options) -> Result<Kernel, KernelError> {
    KernelError::check_capabilities()?;
    let kernel = load_by(options);
    // The kernel's types took some ten megabytes for a moment.
    bpf::give_memory_back();
    kernel
}

fn load_by(options: &Options) -> Result<Kernel, KernelError> {
    let resolved = {
        // Mapped, only what is looked for is made into types. Kernels before 6.16 do not let it be mapped.
        let btf = match btf_rs::Btf::from_file_with_backend(&options.btf, Backend::Mmap) {
            Ok(btf) => btf,
            Err(_) => btf_rs::Btf::from_bytes(&read_btf(&options.btf)?)
                .map_err(|error| unreadable(&options.btf, &error))?,
        };
        offsets::resolve(&btf)?
    };
    let (mut ebpf, btf, rules) = load_census(options, &resolved)?;
    let lost = take_map(&mut ebpf, "LOST")?;
    let changes = take_map(&mut ebpf, "LISTEN_CHANGES")?;
    let tgids = take_map(&mut ebpf, "CENSUS_TGIDS")?;
    let slots = take_map(&mut ebpf, TRAFFIC_SLOTS)?;
    let marks = take_map(&mut ebpf, "TRAFFIC_MARKS")?;
    let traffic = Traffic::new(
        slots,
        marks,
        take_map(&mut ebpf, TRAFFIC)?,
        options.traffic_namespaces,
    )?;
    let logs = match options.log {
        Some(_) => Some(Logs::new(&mut ebpf)?),
        None => None,
    };

    let layout = Layout::new(
        take_map(&mut ebpf, "RULES_LAYOUT")?,
        rules.then_some(options.btf.as_path()),
    )?;
    let iterator =
        iterator(&mut ebpf, "census")?.map_err(|error| KernelError::from_load(LOAD_CENSUS, &error))?;
    let filters = iterator_of_filters(&mut ebpf, &btf, rules)?;
    let filter = resolved.process_filter && !options.unfiltered_census;
    let census = Census::new(iterator, filters, tgids, layout, options, filter)?;

    // Last: from its attachment on the ring fills, and all who could read it must be there.
    let tracepoint: &mut BtfTracePoint = program(&mut ebpf, "trigger")?;
    tracepoint
        .load("inet_sock_set_state", &btf)
        .map_err(|error| KernelError::from_load(LOAD_TRIGGER, &error))?;
    let link = tracepoint
        .attach()
        .and_then(|id| tracepoint.take_link(id))
        .map_err(|error| KernelError::from_attach(ATTACH_TRIGGER, &error))?;
    let trigger = Trigger::new(link, changes, lost, logs)?;
    Ok(Kernel {
        trigger,
        census,
        traffic,
    })
}

/// Makes the maps and loads the census; where the kernel refuses what reads the rules, without that. True if with it.
fn load_census(options: &Options, resolved: &offsets::Offsets) -> Result<(Ebpf, Btf, bool), KernelError> {
    let load = |rules: bool| {
        let mut ebpf = make_maps(options, resolved, rules)?;
        // Not before: the loader makes all of the kernel's types for itself, unasked, and lets them go. Twice of that was
        // the most memory that an agent ever took.
        let btf = Btf::parse(&read_btf(&options.btf)?, Endianness::default())
            .map_err(|error| unreadable(&options.btf, &error))?;
        let iterator: &mut Iter = program(&mut ebpf, "census")?;
        iterator
            .load("task_file", &btf)
            .map_err(|error| KernelError::from_load(LOAD_CENSUS, &error))?;
        Ok::<_, KernelError>((ebpf, btf, rules))
    };
    if options.census_rules {
        match load(true) {
            Ok(loaded) => return Ok(loaded),
            Err(error) => {
                tracing::debug!(%error, "the census is loaded without what reads redirection rules");
            }
        }
    }
    load(false)
}

/// Loads what reads the packet filter where there is no listener. Without it all else goes on.
fn iterator_of_filters(ebpf: &mut Ebpf, btf: &Btf, rules: bool) -> Result<Option<ProgramFd>, KernelError> {
    if !rules {
        return Ok(None);
    }
    let filters: &mut Iter = program(ebpf, FILTERS)?;
    if let Err(error) = filters.load("task", btf) {
        tracing::debug!(%error, "no redirection rules are read of pods in which ztunnel does not listen");
        return Ok(None);
    }
    Ok(iterator(ebpf, FILTERS)?.ok())
}

/// A descriptor of an iterator that is loaded.
fn iterator(ebpf: &mut Ebpf, name: &str) -> Result<Result<ProgramFd, ProgramError>, KernelError> {
    let iterator: &mut Iter = program(ebpf, name)?;
    Ok(iterator
        .fd()
        .and_then(|fd| fd.try_clone().map_err(ProgramError::IOError)))
}

fn unreadable(path: &Path, error: &impl ToString) -> KernelError {
    KernelError::UnreadableBtf {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn read_btf(path: &Path) -> Result<Vec<u8>, KernelError> {
    fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KernelError::NoBtf {
            path: path.to_owned(),
        },
        _ => unreadable(path, &error),
    })
}

fn make_maps(options: &Options, resolved: &offsets::Offsets, rules: bool) -> Result<Ebpf, KernelError> {
    let object = options.object.as_deref().unwrap_or(OBJECT);
    let level = options.log.map_or(0, log_level);
    let mut loader = EbpfLoader::new();
    // By now it has read the kernel's types for itself. The object has nothing that is relocated by them.
    loader.btf(None).override_global(LOG_LEVEL, &level, true);
    if options.log.is_none() {
        loader.map_max_entries(LOG_MAP, LOG_BYTES_OFF);
    }
    for map in [TRAFFIC_SLOTS, TRAFFIC] {
        loader.map_max_entries(map, options.traffic_namespaces);
    }
    let (rules, counted) = (u32::from(rules), u32::from(options.count_connections));
    loader.override_global(RULES_READ, &rules, true);
    loader.override_global(CONNECTIONS_COUNTED, &counted, true);
    for (global, offset) in &resolved.globals {
        loader.override_global(global, offset, true);
    }
    loader
        .load(object)
        .map_err(|error| KernelError::from_load(MAKE_MAPS, &error))
}

/// As `aya-log-ebpf` counts them.
fn log_level(level: tracing::Level) -> u8 {
    match level {
        tracing::Level::ERROR => 1,
        tracing::Level::WARN => 2,
        tracing::Level::INFO => 3,
        tracing::Level::DEBUG => 4,
        tracing::Level::TRACE => 5,
    }
}

fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| lacks(name))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, KernelError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| lacks(name))
}

fn lacks(name: &str) -> KernelError {
    KernelError::Object {
        act: "use the object of the kernel programs",
        reason: format!("it lacks {name}"),
    }
}
