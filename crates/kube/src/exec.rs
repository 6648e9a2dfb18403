//! A command in a container that runs.

use std::future::Future;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};

use crate::cluster::Cluster;
use crate::refusal::Refusal;

/// A command that was begun, and its streams.
pub struct Session(AttachedProcess);

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    /// There is no such program, or it cannot be executed.
    NotExecuted(String),
    /// The cluster does not say.
    Broken(String),
}

impl Cluster {
    /// # Errors
    /// The server refuses it, or the pod has no such container.
    pub async fn exec(
        &self,
        (pod, container): (&str, &str),
        command: &[String],
        tty: bool,
    ) -> Result<Session, Refusal> {
        let how = AttachParams {
            container: Some(container.to_owned()),
            stdin: true,
            stdout: true,
            // A terminal has one stream.
            stderr: !tty,
            tty,
            ..AttachParams::default()
        };
        let pods: Api<Pod> = Api::namespaced(self.client(), self.namespace());
        Ok(Session(self.answered(pods.exec(pod, command, &how)).await?))
    }
}

impl Session {
    pub fn input(&mut self) -> Option<impl tokio::io::AsyncWrite + Unpin + use<>> {
        self.0.stdin()
    }

    pub fn output(&mut self) -> Option<impl tokio::io::AsyncRead + Unpin + use<>> {
        self.0.stdout()
    }

    pub fn errors(&mut self) -> Option<impl tokio::io::AsyncRead + Unpin + use<>> {
        self.0.stderr()
    }

    /// Columns and rows are told to its terminal. `None`: it has none.
    pub fn sizes(&mut self) -> Option<impl FnMut(u16, u16) + use<>> {
        let mut sizes = self.0.terminal_size()?;
        // A size that finds no room is followed by another.
        Some(move |width, height| drop(sizes.try_send(TerminalSize { height, width })))
    }

    /// `None`: it was asked before.
    pub fn end(&mut self) -> Option<impl Future<Output = End> + use<>> {
        let status = self.0.take_status()?;
        Some(async move {
            status.await.map_or_else(|| End::Broken("the connection was cut".to_owned()), |status| end(&status))
        })
    }
}

fn end(status: &Status) -> End {
    if status.status.as_deref() == Some("Success") {
        return End::Exited(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.filter_map(|cause| cause.message.as_ref()?.parse().ok()).next();
    let message = status.message.clone().unwrap_or_default();
    match code {
        Some(code) => End::Exited(code),
        None if message.contains("executable file not found") || message.contains("no such file") => {
            End::NotExecuted(message)
        }
        None => End::Broken(message),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_end_of_a_command_is_read_from_its_status() {
        let check = |status: serde_json::Value, expected: End| {
            assert_eq!(end(&serde_json::from_value(status).unwrap()), expected);
        };
        check(json!({ "status": "Success" }), End::Exited(0));
        let code = json!({ "causes": [{ "reason": "ExitCode", "message": "3" }] });
        check(json!({ "status": "Failure", "reason": "NonZeroExitCode", "details": code }), End::Exited(3));
        let absent = "exec: \"nope\": executable file not found in $PATH";
        check(json!({ "status": "Failure", "message": absent }), End::NotExecuted(absent.to_owned()));
        check(json!({ "status": "Failure", "message": "gone" }), End::Broken("gone".to_owned()));
    }
}
