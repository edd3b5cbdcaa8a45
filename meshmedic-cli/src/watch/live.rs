// SPDX-License-Identifier: Apache-2.0
//! The screen's loop: rounds, keys and stories, whichever comes first.

use std::time::Duration;

use jiff::Timestamp;
use meshmedic_common::policy::SETTLE;
use tokio::sync::mpsc::{Sender, channel};

use super::Args;
use super::keys;
use super::screen::{Asked, Ui, draw};
use super::terminal::Screen;
use super::view::View;
use crate::connection::Connection;
use crate::explain;
use crate::scan::Options;
use crate::signals::Terminate;
use crate::status::Answers;
use crate::ways::{Age, WayArgs};

/// Ages on the screen are told in seconds.
const TICK: Duration = Duration::from_secs(1);
/// For how long three readings of a pod must agree in its story.
const CONFIRM: Duration = Duration::from_secs(2);

/// What came to pass.
enum News {
    Round(anyhow::Result<Answers>),
    Story(String, anyhow::Result<String>),
}

/// Shows the fleet until told to stop.
pub(super) async fn run(args: &Args, connection: &Connection, first: Answers) -> anyhow::Result<u8> {
    let mut terminate = Terminate::listen()?;
    let now = |connection: &Connection| connection.clock.now().unwrap_or_else(Timestamp::now);
    let mut view = View::of(args, first, now(connection));
    let mut ui = Ui::default();
    let screen = Screen::take()?;
    let mut keys = keys::listen()?;
    let (to, mut news) = channel(1);
    let rounds = rounds(args, connection, to.clone());
    tokio::pin!(rounds);
    let mut tick = tokio::time::interval(TICK);
    loop {
        let (columns, lines) = screen.size();
        screen.show(&draw(&view, &mut ui, now(connection), columns, lines))?;
        tokio::select! {
            key = keys.recv() => {
                // Without a terminal there is nobody to show anything to.
                let Some(key) = key else { return Ok(0) };
                match ui.press(&view, key) {
                    Asked::Nothing => {}
                    Asked::End => return Ok(0),
                    Asked::Story(pod) => story(args, connection, pod, to.clone()),
                }
            }
            arrived = news.recv() => match arrived {
                Some(News::Round(Ok(answers))) => {
                    view = View::of(args, answers, now(connection));
                    ui.trouble = None;
                }
                Some(News::Round(Err(error))) => ui.trouble = Some(format!("{error:#}")),
                Some(News::Story(pod, told)) => {
                    ui.tell(&pod, &told.unwrap_or_else(|error| format!("{error:#}")));
                }
                None => return Ok(0),
            },
            () = &mut rounds => return Ok(0),
            _ = tick.tick() => {}
            interrupt = tokio::signal::ctrl_c() => {
                interrupt?;
                return Ok(0);
            }
            () = terminate.wait() => return Ok(0),
        }
    }
}

async fn rounds(args: &Args, connection: &Connection, to: Sender<News>) {
    loop {
        tokio::time::sleep(args.interval).await;
        if to.send(News::Round(args.round(connection).await)).await.is_err() {
            return;
        }
    }
}

/// Reads a pod beside the rounds; what it gives comes as news.
fn story(args: &Args, connection: &Connection, pod: String, to: Sender<News>) {
    let ways = WayArgs::without_probes(args.agents.clone(), 1, args.timeout);
    let connection = connection.clone();
    let options = Options {
        confirm: CONFIRM,
        settle: SETTLE,
        ready_only: false,
        age: Age::Any,
    };
    tokio::spawn(async move {
        let told = explain::tell(&ways, options, &connection, &pod).await;
        // Where nobody waits any more, the program ends.
        let _ = to.send(News::Story(pod, told)).await;
    });
}
