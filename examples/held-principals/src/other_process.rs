//! A second process with the same service. A request is a line with the key. The answer is a line:
//! how often the process has read a principal, and the principal unless the key is refused.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, stdin};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::service::Service;
use crate::{Done, Failure, HELD_WITHIN};

/// The argument that makes this program the second process.
pub(crate) const SERVE: &str = "serve";

/// Serves requests until standard input ends.
pub(crate) async fn serve(url: &str) -> Done {
    let service = Arc::new(Service::start(url).await?);
    let mut keys = BufReader::new(stdin()).lines();
    while let Some(key) = keys.next_line().await? {
        let requested = Arc::clone(&service);
        // A task, as in a server.
        let principal = tokio::spawn(async move { requested.request(&key).await }).await??;
        let principal = principal
            .map(|found| format!("{}, {} of {}", found.name, found.role, found.organization));
        println!("{} {}", service.database.reads(), principal.unwrap_or_default());
    }
    Ok(())
}

/// The second process, as the first one sees it. It is killed when this is dropped, and it ends by
/// itself if the first process was killed.
pub(crate) struct OtherProcess {
    child: Child,
    keys: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// An answer of the other process.
pub(crate) struct Reply {
    pub(crate) reads: u64,
    pub(crate) is_granted: bool,
}

impl OtherProcess {
    pub(crate) fn start(url: &str) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SERVE)
            .env("DATABASE_URL", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(keys), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the other process has no pipes".into());
        };
        Ok(Self { child, keys, answers: BufReader::new(answers).lines() })
    }

    pub(crate) async fn request(&mut self, key: &str) -> Result<Reply, Failure> {
        self.keys.write_all(format!("{key}\n").as_bytes()).await?;
        let answer = self.answers.next_line().await?.ok_or("the other process has ended")?;
        let (reads, principal) = answer.split_once(' ').ok_or("an answer has two parts")?;
        Ok(Reply { reads: reads.parse()?, is_granted: !principal.is_empty() })
    }

    /// Requests a key until the other process holds its principal. Returns how often it has read
    /// one.
    pub(crate) async fn hold(&mut self, key: &str) -> Result<u64, Failure> {
        let (begun, mut reads) = (Instant::now(), None);
        while begun.elapsed() < HELD_WITHIN {
            let answer = self.request(key).await?;
            if !answer.is_granted {
                return Err("the other process refuses a key in force".into());
            }
            if reads.replace(answer.reads) == Some(answer.reads) {
                return Ok(answer.reads);
            }
        }
        Err("the other process holds no principal".into())
    }

    /// Ends the input of the other process, and waits for its end.
    pub(crate) async fn stop(mut self) -> Done {
        drop(self.keys);
        let status = self.child.wait().await?;
        if status.success() { Ok(()) } else { Err(format!("the other process: {status}").into()) }
    }
}
