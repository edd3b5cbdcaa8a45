// SPDX-License-Identifier: Apache-2.0
//! What a machine that was asleep makes of the time: the claims in Leases grew older meanwhile, and so did the watches.
//!
//! A sleep is a leap of `CLOCK_BOOTTIME` alone, and so is a move into a time namespace in which only that clock is ahead.
//! The kernel lets only a process of one thread move, so this test has no harness, which would start another.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it is a test, and says itself what a harness would say"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use kube::Config;
use meshmedic_common::kube::client::acting;
use meshmedic_common::time::Time;
use meshmedic_lab::need;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const NAME: &str = "claims_grow_older_while_the_machine_sleeps";
/// For so long it sleeps. What the test itself takes is nothing beside it.
const SLEEP: Duration = Duration::from_secs(30 * 24 * 3600);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |filter: &String| filter.starts_with('-') || NAME.contains(filter.as_str());
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{NAME}: test");
    } else if arguments.is_empty() || arguments.iter().any(is_wanted) {
        println!("\nrunning 1 test");
        // A panic ends the program before the next line, with its own exit code.
        claims_grow_older_while_the_machine_sleeps();
        println!(
            "test {NAME} ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"
        );
    }
    ExitCode::SUCCESS
}

fn claims_grow_older_while_the_machine_sleeps() {
    if !need::root(NAME) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(answer(listener));
        let api = acting(Config::new(server.parse().unwrap())).unwrap();
        for path in ["/api/v1/pods", "/api/v1/pods?watch=1"] {
            let request = http::Request::get(path).body(Vec::new()).unwrap();
            api.client.request_text(request).await.unwrap();
        }
        let (server, own) = (api.clock.now().unwrap(), Time::now());
        assert!(api.watches.age("pods").unwrap() < SLEEP);

        sleep_for(SLEEP);

        assert!(
            Time::now().since(own) < SLEEP,
            "what the kernel stamps stood still"
        );
        let passed = api.clock.now().unwrap().duration_since(server);
        assert!(
            passed.unsigned_abs() >= SLEEP,
            "the API server's time stood still: {passed:#}"
        );
        assert!(api.clock.silence().unwrap() >= SLEEP, "it was silent meanwhile");
        assert!(api.watches.age("pods").unwrap() >= SLEEP, "and so was the watch");
    });
}

/// Lets `CLOCK_BOOTTIME` of this process leap, and no other clock.
fn sleep_for(span: Duration) {
    let mut holder = Held(
        Command::new("unshare")
            .args(["--time", "--boottime", &span.as_secs().to_string(), "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    // What it repeats shows that the namespace is made.
    writeln!(holder.0.stdin.as_ref().unwrap(), "ready").unwrap();
    let mut line = String::new();
    BufReader::new(holder.0.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n", "unshare makes no time namespace");
    let path = format!("/proc/{}/ns/time_for_children", holder.0.id());
    let namespace = std::fs::File::open(path).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Time)).unwrap();
}

/// Ends with the test.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An API server that has the time, and nothing else.
async fn answer(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        let answer = "HTTP/1.1 200 OK\r\nDate: Tue, 01 Sep 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\
                      Connection: close\r\n\r\n{}";
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}
