// SPDX-License-Identifier: Apache-2.0
//! docs/performance.md and its plots, from docs/performance.json.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::Results;
use super::figures::{Figure, Part, Plot, Row, digits};
use super::plot::draw;

/// The numbers, the page and the folder of its plots, in `docs`.
const NUMBERS: &str = "performance.json";
const PAGE: &str = "performance.md";
const PLOTS: &str = "performance";

/// The scenes in the order of the page, with what is to be known of them.
const SCENES: [(&str, &str, &str); 10] = [
    (
        "verify",
        "One verification of all pods",
        "The baseline reads every `/proc/<pid>/cgroup` and then both socket tables of each pod to their ends. Polling \
         lists all processes but reads only new ones, and stops reading a table as soon as it is certain. \
         With eBPF one census answers for all pods. Each pod's application listens on one port of its own.",
    ),
    (
        "delay",
        "From a loss to the suspicion",
        "From the kernel's timestamp of the first listener that closes until the caller of the watch knows. One loss at \
         a time, on an idle agent.",
    ),
    (
        "restart",
        "A restart of ztunnel, and a start",
        "ztunnel is killed and started again; the clock runs from the moment at which it holds every listener again.",
    ),
    (
        "kernel",
        "The kernel side",
        "By the kernel's own counters (`bpf_stats`), which add some nanoseconds to each run.",
    ),
    (
        "quiet",
        "Whole agents",
        "Two agents with the default flags side by side over the same node and the lab's API server, one polling, one \
         with eBPF. CPU is that of the whole process, to the nanosecond, in windows of one interval; the baseline is its \
         sweep alone, once in each window.",
    ),
    ("rest", "An agent with repairs on", "It follows Leases, too."),
    (
        "noise",
        "In the noise",
        "A whole agent with the default flags, while an imposter opens and closes a capture port a thousand times a \
         second, a pod holds 18,000 descriptors, and ztunnel goes away from 200 pods and returns. Then one more pod is \
         lost for good.",
    ),
    (
        "peak",
        "Memory at its peak",
        "The high-water mark of a whole agent that heals in place. The manifests limit an agent to 128 MiB, several times what it was ever seen to take.",
    ),
    (
        "scan",
        "Scans from a workstation",
        "Each pod takes 50 ms to answer. The baseline asks one after the other.",
    ),
    (
        "fleet",
        "Beyond one node",
        "What an agent asks for at rest is seen from a real one on the lab. The power loss is simulated: a third of the \
         nodes, of whose 30 pods each 10% come back as orphans; every node has the real planner, every Lease the real \
         record. Nothing fails there, latencies are 10 to 40 ms each way, a successor is captured after 10 to 30 s. \
         Bytes count objects as JSON, with 10 kB for a pod.\n\n\
         The budgets for the whole cluster hold for restarts, and make their time grow with the number of orphans: by \
         default 60 an hour, whatever the size of the fleet. Heals in place have no such budget. If a zone is known to have come back broken, raise \
         `--max-repairs-per-hour` and `--cluster-slots` for the occasion, or restart the workloads there.",
    ),
];

/// Takes what was measured into the numbers, and writes the page and its plots anew.
pub(super) fn update(root: &Path, measured: Results) -> anyhow::Result<()> {
    let docs = root.join("docs");
    let mut results = read(&docs).unwrap_or_default();
    results.machine = measured.machine;
    results.scenes.extend(measured.scenes);
    let numbers = serde_json::to_string_pretty(&results)? + "\n";
    write(&docs.join(NUMBERS), &numbers)?;
    fs::create_dir_all(docs.join(PLOTS)).context("cannot make the folder of the plots")?;
    for (file, text) in files(&results) {
        write(&docs.join(file), &text)?;
    }
    Ok(())
}

fn read(docs: &Path) -> anyhow::Result<Results> {
    let file = docs.join(NUMBERS);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no result of a bench", file.display()))
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Everything that is drawn from the numbers, by its name in `docs`.
fn files(results: &Results) -> Vec<(String, String)> {
    let plots = results.scenes.values().flat_map(|part| &part.plots);
    let mut files: Vec<_> = plots.map(|plot| (file_of(plot), draw(plot))).collect();
    files.push((PAGE.to_owned(), page(results)));
    files
}

fn file_of(plot: &Plot) -> String {
    let name: String = plot
        .title
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    format!("{PLOTS}/{name}.svg")
}

fn page(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "# Performance\n\n\
         What a node pays for MeshMedic and how quickly it learns, compared with version 0.0.1, the baseline, which \
         reads everything each minute.\nThis page is drawn from [{NUMBERS}]({NUMBERS}) by the bench; do not edit it.\n\n\
         ```console\n\
         $ sudo -E env \"PATH=$PATH\" cargo xtask bench                   # all of it, about twenty minutes\n\
         $ sudo -E env \"PATH=$PATH\" cargo xtask bench --only verify     # one scene\n\
         $ sudo -E env \"PATH=$PATH\" cargo xtask bench --fleet           # the load on the API server\n\
         $ sudo -E env \"PATH=$PATH\" cargo xtask bench --write           # and put the numbers here\n\
         $ sudo -E env \"PATH=$PATH\" cargo xtask bench --quick           # does the bench work?\n\
         ```\n\n\
         Measured on kernel {}, {} cores ({}). Other work on that machine disturbed the numbers. \
         Trust the ratios, since ours and the baseline ran in turns, and processor time more than the clock. A row shows the median of its rounds; the \
         spread is the distance from the best to the worst, as a share of the median.\n",
        machine.kernel, machine.cores, machine.processor
    );
    let rows = || results.scenes.values().flat_map(|part| &part.rows);
    let (met, missed) = (
        rows().filter(|row| row.met == Some(true)).count(),
        rows().filter(|row| row.met == Some(false)).count(),
    );
    text += &format!(
        "\nOf {} targets {met} are met and {missed} missed{}\n",
        met + missed,
        if missed == 0 { "." } else { ":\n" }
    );
    for row in rows().filter(|row| row.met == Some(false)) {
        text += &format!("- {}, {}\n", row.what, row.column.name());
    }
    for (scene, title, about) in SCENES {
        if let Some(part) = results.scenes.get(scene) {
            text += &section(title, about, part);
        }
    }
    text
}

fn section(title: &str, about: &str, part: &Part) -> String {
    let mut text = format!("\n## {title}\n\n{about}\n\n");
    text += "| what | mode | ours | baseline | ratio | spread | target | |\n|---|---|---:|---:|---:|---:|---|---|\n";
    for row in &part.rows {
        text += &line(row);
    }
    for row in part.rows.iter().filter(|row| row.remark.is_some()) {
        let remark = row.remark.as_deref().unwrap_or_default();
        text += &format!("\n- *{}, {}*: {remark}.", row.what, row.column.name());
    }
    if part.rows.iter().any(|row| row.remark.is_some()) {
        text.push('\n');
    }
    for plot in &part.plots {
        text += &format!("\n![{}]({})\n", plot.title, file_of(plot));
    }
    text
}

fn line(row: &Row) -> String {
    let number = |figure: Option<Figure>| match figure {
        Some(figure) => format!("{} {}", digits(figure.median), row.unit),
        None => String::new(),
    };
    let spread = row.ours.filter(|ours| ours.high > ours.low);
    let spread = spread.map(|ours| format!("{:.0}%", ours.spread() * 100.0));
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
        row.what,
        row.column.name(),
        number(row.ours),
        number(row.baseline),
        row.share(),
        spread.unwrap_or_default(),
        row.target.as_deref().unwrap_or_default(),
        row.verdict(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::workspace_root;

    #[test]
    fn the_page_is_drawn_from_the_numbers_that_are_committed() {
        let docs = workspace_root().unwrap().join("docs");
        let results = read(&docs).unwrap();
        assert!(!results.scenes.is_empty());
        for scene in results.scenes.keys() {
            assert!(
                SCENES.iter().any(|(known, ..)| known == scene),
                "the page has no room for {scene}"
            );
        }
        for (file, text) in files(&results) {
            let written = fs::read_to_string(docs.join(&file)).unwrap_or_default();
            assert!(
                written == text,
                "docs/{file} is not what docs/{NUMBERS} gives: cargo xtask bench --write"
            );
        }
    }
}
