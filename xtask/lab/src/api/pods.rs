// SPDX-License-Identifier: Apache-2.0
//! What the pods of the lab's API server answer to `exec`, `log`, `portforward` and ephemeral containers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::pod::Pod;

/// The pods, or the one container, for which an answer is meant. What is narrower goes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodRef {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) container: String,
}

impl PodRef {
    /// One pod, which need not be there yet.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            container: String::new(),
        }
    }

    /// Every pod of a namespace.
    #[must_use]
    pub fn all_in(namespace: &str) -> Self {
        Self::new(namespace, "")
    }

    /// Every pod.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Only one of its containers.
    #[must_use]
    pub fn container(mut self, name: &str) -> Self {
        self.container = name.to_owned();
        self
    }

    /// This, and what is wider, in the order in which they are asked.
    pub(crate) fn wider(&self) -> impl Iterator<Item = Self> {
        let part = |namespace: bool, name: bool, container: bool| Self {
            namespace: self.namespace.repeat(usize::from(namespace)),
            name: self.name.repeat(usize::from(name)),
            container: self.container.repeat(usize::from(container)),
        };
        [
            part(true, true, true),
            part(true, true, false),
            part(true, false, true),
            part(true, false, false),
            part(false, false, true),
            part(false, false, false),
        ]
        .into_iter()
    }
}

impl From<&Pod> for PodRef {
    fn from(pod: &Pod) -> Self {
        Self::new(pod.namespace(), pod.name())
    }
}

impl From<(&str, &str)> for PodRef {
    fn from((namespace, name): (&str, &str)) -> Self {
        Self::new(namespace, name)
    }
}

/// How a container answers to `exec`, and what an ephemeral container does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exec {
    pub(crate) output: Output,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit: u8,
    pub(crate) delay: Duration,
    /// Drops the connection after so many bytes.
    pub(crate) cut: Option<u64>,
    /// Whether the command goes on after its output.
    pub(crate) stays: bool,
}

/// Where an answer comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Output {
    /// The command is run in the pod's network namespace.
    Run,
    /// The same, with these programs missing; as Docker says it, or as containerd does.
    Without {
        programs: Vec<String>,
        docker: bool,
    },
    /// `cat` shows these tables and knows no other file; no bytes are a file that is missing.
    Tables(Tables),
    Text(Vec<u8>),
    /// Again and again, so many bytes in all or for ever.
    Repeat {
        text: Vec<u8>,
        bytes: Option<u64>,
    },
    Status(Value),
}

/// Socket tables.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Tables {
    /// Those of a recorded pod that ztunnel serves.
    Captured,
    /// Those of a recorded pod that it does not serve.
    Orphan,
    /// The pod's own `tcp`, and no `tcp6`.
    WithoutTcp6,
    These {
        tcp: Vec<u8>,
        tcp6: Option<Vec<u8>>,
    },
}

impl Exec {
    fn new(output: Output) -> Self {
        Self {
            output,
            stderr: Vec::new(),
            exit: 0,
            delay: Duration::ZERO,
            cut: None,
            stays: false,
        }
    }

    /// Runs the command in the network namespace of the pod that runs in the lab. Unless told otherwise, all do.
    #[must_use]
    pub fn run() -> Self {
        Self::new(Output::Run)
    }

    /// The same where some programs are missing, in the words of containerd.
    #[must_use]
    pub fn without(programs: &[&str]) -> Self {
        let programs = programs.iter().map(|&program| program.to_owned()).collect();
        Self::new(Output::Without {
            programs,
            docker: false,
        })
    }

    /// The same in the words of Docker, which prints them and ends with 126 or 127.
    #[must_use]
    pub fn without_in_docker(programs: &[&str], exit: u8) -> Self {
        let programs = programs.iter().map(|&program| program.to_owned()).collect();
        let docker = true;
        Self::new(Output::Without { programs, docker }).exit(exit)
    }

    /// There is no `cat` and no `sh`.
    #[must_use]
    pub fn distroless() -> Self {
        Self::without(&["cat", "sh"])
    }

    /// `cat` shows the recorded tables of a pod that is captured, whatever the pod's own are.
    #[must_use]
    pub fn captured() -> Self {
        Self::new(Output::Tables(Tables::Captured))
    }

    /// `cat` shows the recorded tables of a pod that is not captured.
    #[must_use]
    pub fn orphan() -> Self {
        Self::new(Output::Tables(Tables::Orphan))
    }

    /// `cat` shows these tables; without a `tcp6` it complains and ends with 1, as without IPv6 in the kernel.
    #[must_use]
    pub fn tables(tcp: &[u8], tcp6: Option<&[u8]>) -> Self {
        Self::new(Output::Tables(Tables::These {
            tcp: tcp.to_vec(),
            tcp6: tcp6.map(<[u8]>::to_vec),
        }))
    }

    /// `cat` shows the pod's own `tcp`, and finds no `tcp6`.
    #[must_use]
    pub fn without_tcp6() -> Self {
        Self::new(Output::Tables(Tables::WithoutTcp6))
    }

    /// Prints this, whatever it is asked.
    #[must_use]
    pub fn print(stdout: impl AsRef<[u8]>) -> Self {
        Self::new(Output::Text(stdout.as_ref().to_vec()))
    }

    /// Prints this for ever.
    #[must_use]
    pub fn endless(text: impl AsRef<[u8]>) -> Self {
        Self::repeat(text.as_ref(), None)
    }

    /// Prints this over and over, as fast as it is read, so many bytes in all.
    #[must_use]
    pub fn flood(text: impl AsRef<[u8]>, bytes: u64) -> Self {
        Self::repeat(text.as_ref(), Some(bytes))
    }

    fn repeat(text: &[u8], bytes: Option<u64>) -> Self {
        let text = text.to_vec();
        Self::new(Output::Repeat { text, bytes })
    }

    /// Never answers.
    #[must_use]
    pub fn silence() -> Self {
        Self::print([]).stays()
    }

    /// Starts nothing, and says why with a `Status` of the runtime's.
    #[must_use]
    pub fn status(status: Value) -> Self {
        Self::new(Output::Status(status))
    }

    /// Prints this on the other channel, too.
    #[must_use]
    pub fn stderr(mut self, text: impl AsRef<[u8]>) -> Self {
        self.stderr = text.as_ref().to_vec();
        self
    }

    /// Ends with this code. A command that is really run has its own.
    #[must_use]
    pub fn exit(mut self, code: u8) -> Self {
        self.exit = code;
        self
    }

    /// Says nothing for that long.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Drops the connection after so many bytes of the output, or at its end.
    #[must_use]
    pub fn cut_after(mut self, bytes: u64) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// Goes on after its output.
    #[must_use]
    pub fn stays(mut self) -> Self {
        self.stays = true;
        self
    }
}

/// A container's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Log {
    pub(crate) text: LogText,
    /// Whether each line begins with the time at which the runtime had it.
    pub(crate) stamped: bool,
    pub(crate) end: LogEnd,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum LogText {
    Here(String),
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LogEnd {
    Usual,
    Hangs,
    Endless,
    Cut(usize),
}

impl Log {
    fn new(text: LogText) -> Self {
        Self {
            text,
            stamped: false,
            end: LogEnd::Usual,
        }
    }

    /// These lines. The time of a line is the one with which it begins, or that of its field `time` where it is
    /// JSON; without one it is that of the line before.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::new(LogText::Here(text.to_owned()))
    }

    /// The lines of a file, which is read at each request.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self::new(LogText::File(path.to_owned()))
    }

    /// Each line was recorded with `kubectl logs --timestamps`, whose time is no part of it.
    #[must_use]
    pub fn stamped(mut self) -> Self {
        self.stamped = true;
        self
    }

    /// After its lines the answer stays open and says nothing.
    #[must_use]
    pub fn hangs(mut self) -> Self {
        self.end = LogEnd::Hangs;
        self
    }

    /// Its lines come over and over, without an end.
    #[must_use]
    pub fn endless(mut self) -> Self {
        self.end = LogEnd::Endless;
        self
    }

    /// The connection is dropped after so many bytes.
    #[must_use]
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.end = LogEnd::Cut(bytes);
        self
    }
}

/// What becomes of an ephemeral container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ephemeral(pub(crate) Fortune);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Fortune {
    Runs(Box<Exec>),
    NoImage,
    NoStart(String),
    Waits,
}

impl Ephemeral {
    /// Its command is carried out so; without any word it is run in the pod's network namespace.
    #[must_use]
    pub fn runs(exec: Exec) -> Self {
        Self(Fortune::Runs(Box::new(exec)))
    }

    /// Its image cannot be had: `ErrImagePull`, then `ImagePullBackOff`.
    #[must_use]
    pub fn no_image() -> Self {
        Self(Fortune::NoImage)
    }

    /// The runtime cannot start it: `StartError`, with the message of the runtime for a missing program.
    #[must_use]
    pub fn no_program(program: &str) -> Self {
        Self(Fortune::NoStart(program.to_owned()))
    }

    /// It stays in `ContainerCreating`.
    #[must_use]
    pub fn waits() -> Self {
        Self(Fortune::Waits)
    }
}
