// SPDX-License-Identifier: Apache-2.0
//! The frame of every page that this command writes: one file, which needs nothing from elsewhere.

use std::fmt::{self, Write as _};

use jiff::Timestamp;

use super::Escaped;

const STYLE: &str = include_str!("page.css");

/// A count in the page's head, with the class that gives its colour.
pub(crate) type Total<'w> = (&'static str, usize, &'w str);

/// Begins a page with what it is of, as of when, and how many there are of what. Of what matters most it says that
/// there is none.
pub(crate) fn begin(
    out: &mut String,
    title: &str,
    at: Timestamp,
    of: &str,
    totals: &[Total<'_>],
) -> fmt::Result {
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}, {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n\
         <p>{}</p>\n<ul class=\"totals\">\n",
        minute(at),
        Escaped(of)
    )?;
    for &(class, count, word) in totals {
        if count > 0 || matches!(class, "error" | "warning" | "passed") {
            writeln!(out, "<li class=\"{class}\"><b>{count}</b> {word}</li>")?;
        }
    }
    writeln!(out, "</ul>\n</header>\n<main>")
}

/// Ends it.
pub(crate) fn end(out: &mut String) -> fmt::Result {
    write!(
        out,
        "</main>\n<footer>\n<p>Written by meshmedic {}. It holds names of the cluster, and no secrets.</p>\n\
         </footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// A time as people read it on a page.
pub(crate) fn minute(at: Timestamp) -> impl fmt::Display {
    at.strftime("%Y-%m-%d %H:%M UTC")
}

/// The word for so many.
pub(crate) const fn plural(count: usize, one: &'static str, several: &'static str) -> &'static str {
    if count == 1 { one } else { several }
}
