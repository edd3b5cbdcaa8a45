// SPDX-License-Identifier: Apache-2.0
//! Signs a folder with a key that is thrown away, and says by which commands one finds that nothing was changed.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::folder::{CHECKSUMS, Folder};
use crate::pack::hex;
use crate::pack::oci::canonical;

const KEY: &str = "release.pub";
const SIGNATURE: &str = "checksums.txt.sig";
const STATEMENT: &str = "provenance.intoto.json";
const BUNDLE: &str = "provenance.sigstore.json";
/// The same commands that are printed.
const COMMANDS: &str = "verify.sh";
const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";

/// Adds statement, checksums and signatures; returns the commands.
pub(super) fn seal(folder: &mut Folder, statement: &[u8]) -> Result<String> {
    let key = Key::make()?;
    folder.write(KEY, &key.public)?;
    let subjects: Vec<(String, String)> = folder
        .digests()
        .map(|(name, digest)| (name.to_owned(), digest.to_owned()))
        .collect();
    folder.add(STATEMENT, statement.to_vec())?;
    folder.add(BUNDLE, bundle(&key, statement)?)?;
    let commands = commands(&key.fingerprint, folder, &subjects);
    folder.add(COMMANDS, commands.clone().into_bytes())?;
    let checksums = folder.write_checksums()?;
    let signature = key.sign(checksums.as_bytes())?;
    folder.write(SIGNATURE, base64(&signature)?.as_bytes())?;
    Ok(commands)
}

/// The statement in an envelope, as Sigstore's tools read it, with the key's name in the place of a certificate.
fn bundle(key: &Key, statement: &[u8]) -> Result<Vec<u8>> {
    let mut signed = format!(
        "DSSEv1 {} {STATEMENT_TYPE} {} ",
        STATEMENT_TYPE.len(),
        statement.len()
    )
    .into_bytes();
    signed.extend(statement);
    canonical(&json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": { "publicKey": { "hint": key.fingerprint } },
        "dsseEnvelope": {
            "payload": base64(statement)?,
            "payloadType": STATEMENT_TYPE,
            "signatures": [{ "sig": base64(&key.sign(&signed)?)?, "keyid": key.fingerprint }],
        },
    }))
}

/// A script for any shell that ends with 0 if, and only if, all is as it was signed.
fn commands(fingerprint: &str, folder: &Folder, subjects: &[(String, String)]) -> String {
    let digest = "openssl dgst -sha256 -r";
    let mut text = format!(
        "#!/bin/sh\n# Run in the folder of the release. Needs openssl, sha256sum, sed and tar, and no network.\nset -eu\n\
         # The key is the one of which you were told.\n\
         openssl pkey -pubin -in {KEY} -outform DER | {digest} | grep -q '^{fingerprint} '\n\
         # With it the list was signed, and each file is as the list has it.\n\
         openssl base64 -d -A -in {SIGNATURE} | openssl dgst -sha256 -verify {KEY} -signature /dev/stdin {CHECKSUMS}\n\
         sha256sum --check --strict --quiet {CHECKSUMS}\n\
         # There is nothing else.\n\
         for file in *; do\n  \
         case $file in {CHECKSUMS} | {SIGNATURE} | {KEY}) ;; *) grep -q \"^[0-9a-f]*  $file\\$\" {CHECKSUMS} ;; esac\n\
         done\n\
         # The envelope holds the provenance, and was signed as well.\n\
         work=$(mktemp -d)\ntrap 'rm -r \"$work\"' EXIT\n\
         sed 's/.*\"payload\":\"\\([^\"]*\\)\".*/\\1/' {BUNDLE} | openssl base64 -d -A | cmp - {STATEMENT}\n\
         sed 's/.*\"sig\":\"\\([^\"]*\\)\".*/\\1/' {BUNDLE} | openssl base64 -d -A > \"$work/sig\"\n\
         {{ printf 'DSSEv1 {} {STATEMENT_TYPE} %d ' \"$(wc -c < {STATEMENT})\"; cat {STATEMENT}; }} > \"$work/signed\"\n\
         openssl dgst -sha256 -verify {KEY} -signature \"$work/sig\" \"$work/signed\"\n\
         # It speaks of these very files.\n",
        STATEMENT_TYPE.len()
    );
    for (name, digest) in subjects {
        let _ = writeln!(
            text,
            "grep -qF '{{\"digest\":{{\"sha256\":\"{digest}\"}},\"name\":\"{name}\"}}' {STATEMENT}"
        );
    }
    text.push_str("# Images and chart have the digests by which registries know them.\n");
    for (archive, blob) in folder.blobs() {
        let _ = writeln!(
            text,
            "tar -xOf {archive} blobs/sha256/{blob} | {digest} | grep -q '^{blob} '"
        );
    }
    text
}

/// A key that no file keeps once this is dropped.
struct Key {
    folder: tempfile::TempDir,
    public: Vec<u8>,
    /// Of the public key.
    fingerprint: String,
}

impl Key {
    fn make() -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let private = folder.path().join("key");
        let curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
        openssl(
            Command::new("openssl")
                .arg("genpkey")
                .args(curve)
                .arg("-out")
                .arg(&private),
        )?;
        let shown = |form: &str| {
            let mut command = Command::new("openssl");
            openssl(
                command
                    .args(["pkey", "-pubout", "-outform", form, "-in"])
                    .arg(&private),
            )
        };
        Ok(Self {
            public: shown("PEM")?,
            fingerprint: hex(&shown("DER")?),
            folder,
        })
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let (private, file) = (self.folder.path().join("key"), self.folder.path().join("signed"));
        write(&file, bytes)?;
        let mut command = Command::new("openssl");
        openssl(
            command
                .args(["dgst", "-sha256", "-sign"])
                .arg(&private)
                .arg(&file),
        )
    }
}

fn base64(bytes: &[u8]) -> Result<String> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let file = folder.path().join("bytes");
    write(&file, bytes)?;
    let text = openssl(Command::new("openssl").args(["base64", "-A", "-in"]).arg(&file))?;
    String::from_utf8(text).context("openssl writes base64 that is no text")
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
}

/// Runs openssl and returns what it printed.
fn openssl(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .context("cannot run openssl, which makes the key and signs: install it")?;
    ensure!(
        output.status.success(),
        "openssl failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}
