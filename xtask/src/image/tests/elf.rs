// SPDX-License-Identifier: Apache-2.0
//! Whose libraries are found, and what is said where they are not.

use std::env;
use std::fs;
use std::path::Path;

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
        assert!(own.closure(Path::new("/")).unwrap().is_empty());
        return;
    }
    let closure = own.closure(Path::new("/")).unwrap();
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
    let error = own.closure(sysroot.path()).unwrap_err().to_string();
    assert!(error.contains(&loader), "{error}");

    let place = sysroot.path().join(loader.trim_start_matches('/'));
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::copy(&loader, place).unwrap();
    let error = own.closure(sysroot.path()).unwrap_err().to_string();
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
    assert!(own.closure(sysroot.path()).is_err());
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
