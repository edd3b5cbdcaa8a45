// SPDX-License-Identifier: Apache-2.0
//! For mdBook, which takes the pages of `docs` alone: their links to other files lead to the repository.

use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

/// Where the pages are in the repository.
const PAGES: &str = "docs";

/// Is a preprocessor, as mdBook asks for one: with `supports` it says whether it can, and else it turns a book into
/// another.
pub(crate) fn run(words: &[String]) -> anyhow::Result<()> {
    if words.first().is_some_and(|word| word == "supports") {
        // Any renderer.
        return Ok(());
    }
    let read = serde_json::from_reader::<_, [Value; 2]>(io::stdin().lock());
    let [_, mut book] = read.context("mdBook gives no book: this is run by `mdbook build docs`")?;
    lead_out(&mut book);
    serde_json::to_writer(io::stdout().lock(), &book).context("cannot write the book")
}

/// Every chapter below, wherever this edition of mdBook keeps it.
fn lead_out(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(lead_out),
        Value::Object(fields) => {
            let page = fields.get("path").and_then(Value::as_str).map(PathBuf::from);
            if let (Some(page), Some(Value::String(text))) = (page, fields.get_mut("content")) {
                *text = with_links_out(text, &page);
            }
            fields.values_mut().for_each(lead_out);
        }
        _ => {}
    }
}

/// A page's text, in which links to files outside the book are addresses, and those to a README lead to where mdBook
/// puts it.
fn with_links_out(text: &str, page: &Path) -> String {
    let mut parts = text.split("](");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += "](";
        let end = part.find([')', '#', ' ', '\n']).unwrap_or(part.len());
        let (link, rest) = part.split_at(end);
        match outside(link, page) {
            Some(path) => out += &format!("{}/blob/main/{path}{rest}", env!("CARGO_PKG_REPOSITORY")),
            None => match link.strip_suffix("README.md") {
                Some(folder) => out += &format!("{folder}index.md{rest}"),
                None => out += part,
            },
        }
    }
    out
}

/// The file of the repository that a link leads to, if that is none of the book's.
fn outside(link: &str, page: &Path) -> Option<String> {
    if !link.starts_with("../") {
        return None;
    }
    let mut path = Path::new(PAGES).join(page.parent()?);
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    (!path.starts_with(PAGES)).then(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn links_out_of_the_book_lead_to_the_repository_and_others_stay() {
        let chapter = |path: &str, content: &str| json!({"Chapter": {"path": path, "content": content, "sub_items": []}});
        let text = "[a](../README.md#status) [b](agent.md) [c](https://a.example/../x) [d](../deploy/helm) [e](decisions/README.md#a)";
        let deep = "[f](../architecture.md) [g](../../SECURITY.md)";
        let mut book = json!({"items": [chapter("install.md", text), chapter("decisions/ladder.md", deep)]});
        lead_out(&mut book);
        let to = |path: &str| format!("{}/blob/main/{path}", env!("CARGO_PKG_REPOSITORY"));
        let text = format!(
            "[a]({}) [b](agent.md) [c](https://a.example/../x) [d]({}) [e](decisions/index.md#a)",
            to("README.md#status"),
            to("deploy/helm")
        );
        let deep = format!("[f](../architecture.md) [g]({})", to("SECURITY.md"));
        let expected =
            json!({"items": [chapter("install.md", &text), chapter("decisions/ladder.md", &deep)]});
        assert_eq!(book, expected);
    }
}
