// SPDX-License-Identifier: Apache-2.0
//! Whose libraries are found, and what is said where they are not.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::image::elf::Needs;

fn own() -> Needs {
    let own = env::current_exe().unwrap();
    Needs::read(&own, &fs::read(&own).unwrap()).unwrap()
}

#[test]
fn a_program_s_libraries_are_found_with_what_these_need() {
    let own = own();
    assert_eq!(own.machine.rust(), env::consts::ARCH);
    if own.is_static() {
        assert!(own.closure(&[Path::new("/")]).unwrap().is_empty());
        return;
    }
    let closure = own.closure(&[Path::new("/")]).unwrap();
    let loader = own.interpreter.clone().unwrap();
    assert!(closure.contains_key(&loader), "{:?}", closure.keys());
    let names: Vec<&str> = closure
        .keys()
        .map(|path| path.rsplit('/').next().unwrap())
        .collect();
    for library in &own.libraries {
        assert!(names.contains(&library.as_str()), "{library} of {names:?}");
    }
    // Nothing that is there needs what is not.
    for (path, bytes) in &closure {
        for library in Needs::read(Path::new(path), bytes).unwrap().libraries {
            assert!(
                names.contains(&library.as_str()),
                "{path} needs {library} of {names:?}"
            );
        }
    }
    let mut once = names.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), names.len(), "a library twice: {names:?}");
}

#[test]
fn a_library_that_is_missing_is_named_with_the_way_out() {
    let own = own();
    let Some(loader) = own.interpreter.clone() else {
        return;
    };
    let sysroot = tempfile::tempdir().unwrap();
    let error = own.closure(&[sysroot.path()]).unwrap_err().to_string();
    assert!(error.contains(&loader), "{error}");

    let place = sysroot.path().join(loader.trim_start_matches('/'));
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::copy(&loader, place).unwrap();
    let error = own.closure(&[sysroot.path()]).unwrap_err().to_string();
    assert!(
        own.libraries.iter().any(|library| error.contains(library)),
        "{error}"
    );
    assert!(error.contains("-unknown-linux-musl"), "{error}");

    // One that is there by its name, and is none, does not count.
    for library in &own.libraries {
        fs::create_dir_all(sysroot.path().join("lib")).unwrap();
        fs::write(sysroot.path().join("lib").join(library), "no library").unwrap();
    }
    assert!(own.closure(&[sysroot.path()]).is_err());
}

/// A program that needs `libouter.so`, which needs `libinner.so`, and nothing else but its loader.
fn small(sysroot: &Path, folder: &str) -> Needs {
    let lib = sysroot.join(folder);
    fs::create_dir_all(&lib).unwrap();
    let cc = |arguments: &[&str]| {
        let mut cc = Command::new("cc");
        cc.current_dir(&lib)
            .args(["-nostdlib", "-x", "c", "/dev/null", "-L.", "-Wl,--no-as-needed"]);
        assert!(
            cc.args(arguments)
                .status()
                .expect("whoever links has cc")
                .success()
        );
    };
    cc(&["-shared", "-o", "libinner.so"]);
    cc(&["-shared", "-o", "libouter.so", "-linner"]);
    cc(&["-o", "program", "-Wl,--entry=0", "-louter"]);
    let program = fs::read(lib.join("program")).unwrap();
    let needs = Needs::read(Path::new("program"), &program).unwrap();
    assert_eq!(needs.libraries, ["libouter.so"]);
    let loader = sysroot.join(needs.interpreter.as_ref().unwrap().trim_start_matches('/'));
    fs::create_dir_all(loader.parent().unwrap()).unwrap();
    fs::write(loader, "the loader").unwrap();
    needs
}

#[test]
fn what_a_library_needs_is_needed_too() {
    let sysroot = tempfile::tempdir().unwrap();
    let needs = small(sysroot.path(), "usr/lib");
    let closure = needs.closure(&[sysroot.path()]).unwrap();
    let loader = needs.interpreter.as_ref().unwrap().as_str();
    let mut wanted = vec![loader, "/usr/lib/libinner.so", "/usr/lib/libouter.so"];
    wanted.sort_unstable();
    assert_eq!(closure.keys().collect::<Vec<_>>(), wanted);

    fs::remove_file(sysroot.path().join("usr/lib/libinner.so")).unwrap();
    let error = needs.closure(&[sysroot.path()]).unwrap_err().to_string();
    assert!(error.contains("libinner.so"), "{error}");
}

#[test]
fn a_library_of_another_processor_is_passed_over() {
    let sysroot = tempfile::tempdir().unwrap();
    let needs = small(sysroot.path(), "usr/lib");
    let inner = fs::read(sysroot.path().join("usr/lib/libinner.so")).unwrap();
    let mut other = inner.clone();
    // The machine's field in the header, of x86_64 or aarch64, whichever this is not.
    let machine: u16 = if needs.machine.rust() == "x86_64" { 183 } else { 62 };
    other[18..20].copy_from_slice(&machine.to_le_bytes());
    fs::create_dir_all(sysroot.path().join("lib")).unwrap();
    fs::write(sysroot.path().join("lib/libinner.so"), other).unwrap();
    let closure = needs.closure(&[sysroot.path()]).unwrap();
    assert!(closure["/usr/lib/libinner.so"] == inner, "{:?}", closure.keys());
    assert!(!closure.contains_key("/lib/libinner.so"));
}

#[test]
fn what_is_no_program_for_an_image_is_refused() {
    let path = Path::new("some/file");
    for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", &[0; 4096]] {
        let error = Needs::read(path, bytes).unwrap_err().to_string();
        assert!(error.contains("some/file"), "{error}");
    }
    // Of another processor: the machine's field in the header.
    let mut other = fs::read(env::current_exe().unwrap()).unwrap();
    other[18..20].copy_from_slice(&243_u16.to_le_bytes());
    let error = Needs::read(path, &other).unwrap_err().to_string();
    assert!(error.contains("another processor"), "{error}");
}
