// SPDX-License-Identifier: Apache-2.0
//! The terminal, taken for a screen and given back as it was.

use std::io;

use console::Term;

const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";
const HOME: &str = "\u{1b}[H";
const TO_END_OF_LINE: &str = "\u{1b}[K";
const TO_END_OF_SCREEN: &str = "\u{1b}[J";

/// The alternate screen; what was on the terminal is back when this is dropped.
pub(super) struct Screen {
    term: Term,
    /// Another thread waits for a key with the terminal set to that, and it does not end before a key comes.
    #[cfg(unix)]
    before: Option<rustix::termios::Termios>,
}

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        let screen = Self {
            term: Term::buffered_stdout(),
            #[cfg(unix)]
            before: rustix::termios::tcgetattr(io::stdin()).ok(),
        };
        screen.term.write_str(ENTER)?;
        screen.term.flush()?;
        Ok(screen)
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        let (lines, columns) = self.term.size();
        (columns.into(), lines.into())
    }

    /// Writes all lines anew; nothing flickers, since nothing is wiped before.
    pub(super) fn show(&self, lines: &[String]) -> io::Result<()> {
        self.term.write_str(HOME)?;
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                self.term.write_str("\r\n")?;
            }
            self.term.write_str(line)?;
            self.term.write_str(TO_END_OF_LINE)?;
        }
        self.term.write_str(TO_END_OF_SCREEN)?;
        self.term.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Where the terminal is gone, nothing is left to give back.
        let _ = self.term.write_str(LEAVE);
        let _ = self.term.flush();
        #[cfg(unix)]
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, before);
        }
    }
}
