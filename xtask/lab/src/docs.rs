// SPDX-License-Identifier: Apache-2.0
//! The commands that the documents tell people to run, so that a test can ask the programs whether they take them.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Context as _, Result};

/// A command in a block of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Where it stands: the file, from the root.
    pub file: PathBuf,
    /// The line, counted from one.
    pub line: usize,
    /// What a shell makes of it.
    pub words: Vec<String>,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}",
            self.file.display(),
            self.line,
            self.words.join(" ")
        )
    }
}

/// Folders without documents of ours.
const ELSEWHERE: [&str; 4] = ["target", "fixtures", "corpus", "artifacts"];
/// What stands before a program and is none of its words.
const BEFORE: [&str; 3] = ["$", "sudo", "exec"];
/// Where the program's own words end.
const AFTER: [&str; 6] = ["|", ">", ">>", "&&", "||", "&"];

/// Every command in the documents below `root` that begins with the words of `program`. The first of its words is
/// the whole of `program`.
pub fn commands(root: &Path, program: &[&str]) -> Result<Vec<Command>> {
    let mut commands = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let listed = || format!("listing {}", folder.display());
        for entry in folder.read_dir().context(listed)? {
            let entry = entry.context(listed)?;
            let (path, name) = (entry.path(), entry.file_name());
            let hidden = name.to_string_lossy().starts_with('.');
            if entry.file_type().context(listed)?.is_dir() {
                if !hidden && !ELSEWHERE.iter().any(|skip| name == *skip) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text =
                    std::fs::read_to_string(&path).context(|| format!("reading {}", path.display()))?;
                let file = path.strip_prefix(root).unwrap_or(&path);
                commands.extend(in_text(&text, program).into_iter().map(|(line, words)| Command {
                    file: file.to_owned(),
                    line,
                    words,
                }));
            }
        }
    }
    commands.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Ok(commands)
}

/// The commands of one document, with their lines.
fn in_text(text: &str, program: &[&str]) -> Vec<(usize, Vec<String>)> {
    let mut commands = Vec::new();
    let mut shell = None;
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let line = line.trim();
        if let Some(language) = line.strip_prefix("```") {
            // What is printed is no command.
            let is_shell = ["", "console", "sh", "bash", "shell"].contains(&language);
            shell = shell.is_none().then_some(is_shell);
            continue;
        }
        if shell != Some(true) {
            continue;
        }
        let mut whole = line.to_owned();
        while whole.ends_with('\\') {
            whole.pop();
            match lines.next() {
                Some((_, more)) => whole += more.trim(),
                None => break,
            }
        }
        commands.extend(words(&whole, program).map(|words| (at + 1, words)));
    }
    commands
}

fn words(line: &str, program: &[&str]) -> Option<Vec<String>> {
    let all = shlex::split(line)?;
    let assigns = |word: &str| {
        let name = word.split_once('=').map_or("", |(name, _)| name);
        !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    };
    let mut words = all
        .into_iter()
        .skip_while(|word| BEFORE.contains(&word.as_str()) || assigns(word));
    for expected in program {
        let word = words.next()?;
        // A program may stand with its path.
        (word == *expected || word.ends_with(&format!("/{expected}"))).then_some(())?;
    }
    let own = words.take_while(|word| !AFTER.contains(&word.as_str()));
    Some(std::iter::once(program.join(" ")).chain(own).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_code_and_nowhere_else() {
        let text = "meshmedic scan\n```console\n$ meshmedic scan -n shop  # who?\n$ kubectl get pods\nmeshmedic is loud\n\
                    $ sudo target/release/meshmedic node | less\n$ MESHMEDIC_LOG=debug meshmedic repair \\\n  --yes 'a b'\n```\n\
                    meshmedic scan\n```text\nmeshmedic scan\n```\n";
        let found = in_text(text, &["meshmedic"]);
        let found: Vec<(usize, String)> = found
            .into_iter()
            .map(|(at, words)| (at, words.join("+")))
            .collect();
        assert_eq!(
            found,
            [
                (3, "meshmedic+scan+-n+shop".to_owned()),
                (5, "meshmedic+is+loud".to_owned()),
                (6, "meshmedic+node".to_owned()),
                (7, "meshmedic+repair+--yes+a b".to_owned()),
            ]
        );
        assert_eq!(
            in_text("```\ncargo xtask demo --poll\n```", &["cargo", "xtask"]),
            [(
                2,
                vec!["cargo xtask".to_owned(), "demo".to_owned(), "--poll".to_owned()]
            )]
        );
    }
}
