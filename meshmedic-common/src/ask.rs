// SPDX-License-Identifier: Apache-2.0
//! What an ask leaves on the pod: what was tried, and against what.
//!
//! It is all that a heal in place writes down. An agent that comes after a crash reads it and goes on from there. Anybody
//! who may write the pod may forge it, and then decides about that pod alone.

use std::fmt;

use jiff::Timestamp;

/// The longest value.
pub const LONGEST: usize = 256;
/// The longest of the names in it: a container's ID has 64 digits.
const LONGEST_NAME: usize = 64;
/// What the value begins with.
const VERSION: &str = "v1";
/// Stands for a name that is not known.
const UNKNOWN: &str = "-";

/// What an ask is made against. The same ask against the same is not repeated: nothing would be different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Against {
    /// The pod's sandbox: unlike any that the pod had before or will have.
    pub sandbox: String,
    /// The container of istio-cni's node agent.
    pub istio_cni: String,
    /// The container of ztunnel.
    pub ztunnel: String,
}

impl Against {
    /// From what is known of each. What could not be written down as it is stands for itself no longer, so it is cut.
    #[must_use]
    pub fn new(sandbox: &str, istio_cni: Option<&str>, ztunnel: Option<&str>) -> Self {
        Self {
            sandbox: name(Some(sandbox)),
            istio_cni: name(istio_cni.map(container)),
            ztunnel: name(ztunnel.map(container)),
        }
    }
}

/// The ID alone: `containerd://` stands before it.
fn container(id: &str) -> &str {
    id.rsplit_once('/').map_or(id, |(_, id)| id)
}

fn name(text: Option<&str>) -> String {
    let kept: String = text
        .unwrap_or_default()
        .chars()
        .filter(|&c| fits(c))
        .take(LONGEST_NAME)
        .collect();
    if kept.is_empty() { UNKNOWN.to_owned() } else { kept }
}

const fn fits(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// How often istio-cni was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attempt {
    /// Once.
    First,
    /// Once more: the first failed and thereby cleared what istio-cni had remembered wrongly.
    Second,
}

/// One ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which.
    pub attempt: Attempt,
    /// When, by the API server's clock and in whole seconds.
    pub at: Timestamp,
    /// Against what.
    pub against: Against,
}

impl Ask {
    /// Reads what stands on a pod. What is not ours to the letter says nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let words: Vec<&str> = text.split(' ').collect();
        let [VERSION, attempt, at, sandbox, istio_cni, ztunnel] = words[..] else {
            return None;
        };
        let name = |text: &str| {
            let good = (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(fits);
            good.then(|| text.to_owned())
        };
        Some(Self {
            attempt: match attempt {
                "1" => Attempt::First,
                "2" => Attempt::Second,
                _ => return None,
            },
            at: at.parse().ok()?,
            against: Against {
                sandbox: name(sandbox)?,
                istio_cni: name(istio_cni)?,
                ztunnel: name(ztunnel)?,
            },
        })
    }

    /// The ask that may follow on the one that stands on the pod; `None` where it would change nothing.
    ///
    /// `still_pending` is whether istio-cni left the pod as the first ask had made it.
    #[must_use]
    pub fn after(
        standing: Option<&Self>,
        against: &Against,
        at: Timestamp,
        still_pending: bool,
    ) -> Option<Self> {
        let attempt = match standing {
            Some(ask) if ask.against == *against => match ask.attempt {
                Attempt::First if still_pending => Attempt::Second,
                _ => return None,
            },
            _ => Attempt::First,
        };
        Some(Self {
            attempt,
            // It is written down in whole seconds.
            at: Timestamp::from_second(at.as_second()).unwrap_or(at),
            against: against.clone(),
        })
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempt = match self.attempt {
            Attempt::First => 1,
            Attempt::Second => 2,
        };
        let Against {
            sandbox,
            istio_cni,
            ztunnel,
        } = &self.against;
        write!(
            f,
            "{VERSION} {attempt} {} {sandbox} {istio_cni} {ztunnel}",
            self.at
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn against(sandbox: &str) -> Against {
        let id = "a".repeat(64);
        Against::new(sandbox, Some(&format!("containerd://{id}")), Some(&id))
    }

    fn ask(attempt: Attempt) -> Ask {
        Ask {
            attempt,
            at: "2026-11-29T10:00:00Z".parse().unwrap(),
            against: against("4026532345-1764410400"),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for attempt in [Attempt::First, Attempt::Second] {
            let ask = ask(attempt);
            assert_eq!(Ask::parse(&ask.to_string()), Some(ask));
        }
        let id = "a".repeat(64);
        let expected = format!("v1 1 2026-11-29T10:00:00Z 4026532345-1764410400 {id} {id}");
        assert_eq!(ask(Attempt::First).to_string(), expected);
    }

    #[test]
    fn the_longest_fits() {
        let long = "x".repeat(500);
        let against = Against::new(&long, Some(&long), Some(&long));
        let ask = Ask {
            against,
            ..ask(Attempt::First)
        };
        let text = ask.to_string();
        assert!(text.len() <= LONGEST, "{}", text.len());
        assert_eq!(Ask::parse(&text), Some(ask));
    }

    #[test]
    fn nothing_else_is_read() {
        let good = ask(Attempt::First).to_string();
        let mut bad = vec![
            String::new(),
            " ".to_owned(),
            "v1".to_owned(),
            "x".repeat(LONGEST + 1),
        ];
        bad.push(good.replace("v1", "v2"));
        bad.push(good.replace(" 1 ", " 3 "));
        bad.push(good.replace("2026-11-29T10:00:00Z", "yesterday"));
        bad.push(format!("{good} more"));
        bad.push(format!("{good} "));
        bad.push(good.replace("4026532345", "40265/32345"));
        bad.push(good.replace(&"a".repeat(64), &"a".repeat(65)));
        for text in bad {
            assert_eq!(Ask::parse(&text), None, "{text:?}");
        }
    }

    #[test]
    fn the_same_is_asked_twice_at_most_and_only_while_it_stays_pending() {
        let (first, second) = (ask(Attempt::First), ask(Attempt::Second));
        let now = "2026-11-29T10:01:00.7Z".parse().unwrap();
        let same = first.against.clone();
        let next = |standing, against: &Against, pending| {
            Ask::after(standing, against, now, pending).map(|ask| ask.attempt)
        };
        assert_eq!(next(None, &same, false), Some(Attempt::First));
        assert_eq!(next(Some(&first), &same, true), Some(Attempt::Second));
        assert_eq!(next(Some(&first), &same, false), None);
        assert_eq!(next(Some(&second), &same, true), None);
        // Another sandbox, istio-cni or ztunnel: everything is open again.
        let others = [
            against("4026532999-1764410999"),
            Against::new(&same.sandbox, Some("other"), Some(&same.ztunnel)),
            Against::new(&same.sandbox, Some(&same.istio_cni), None),
        ];
        for other in others {
            assert_eq!(next(Some(&second), &other, false), Some(Attempt::First));
        }
        // Each changes what stands on the pod, or istio-cni would hear of no change.
        let again = Ask::after(Some(&first), &same, first.at, true).unwrap();
        assert_ne!(again.to_string(), first.to_string());
    }
}
