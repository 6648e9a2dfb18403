//! What a container waits for before anything of it is begun: that its engine answers, and its turn to have an image made. Nobody who waits
//! keeps a thread.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bowline_core::instance::{Awaited, InstanceSpec, Phase};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio::time::Instant;

use super::{Context, Event, container, image};
use crate::Engine;

/// Before an engine is asked again, and before it is looked again whether anybody waits.
const AGAIN: Duration = Duration::from_millis(500);

/// Of all images that are made for this node.
pub(super) type Turn = OwnedMutexGuard<()>;

/// What an engine answered last, and when.
#[derive(Debug, Default)]
pub(super) struct LastAnswer(Mutex<Option<(Instant, Result<(), String>)>>);

impl LastAnswer {
    /// Asked by one at a time: what it has answered a moment ago, it has answered all who wait. So each of them hears it within the time of
    /// one question.
    async fn or_ask(&self, engine: &Engine) -> Result<(), String> {
        let mut last = self.0.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < AGAIN
        {
            return answer.clone();
        }
        let asked = engine.clone();
        let answer = match tokio::task::spawn_blocking(move || asked.answers()).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            // A panic has been told.
            Err(_) => Ok(()),
        };
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

/// One that is to start.
pub(super) struct Waiting<'w> {
    pub context: &'w Arc<Context>,
    pub spec: &'w Arc<InstanceSpec>,
    pub unwanted: &'w AtomicBool,
    pub told: &'w mpsc::Sender<Event>,
}

impl Waiting<'_> {
    /// Until all is there, or nobody wants it any more. Its turn, if its image is to be made.
    pub(super) async fn wait(&self) -> Option<Turn> {
        let engines = container::engine(self.context, self.spec)?;
        self.until_it_answers(&engines.answer, &engines.of.engine).await;
        if self.is_unwanted() {
            return None;
        }
        let (context, spec) = (Arc::clone(self.context), Arc::clone(self.spec));
        let lacks = tokio::task::spawn_blocking(move || image::is_lacking(&context, &spec)).await;
        if !lacks.unwrap_or_default() {
            return None;
        }
        self.tell(Phase::Preparing(Awaited::Turn)).await;
        self.unless_unwanted(Arc::clone(&engines.of.making).lock_owned()).await
    }

    /// An engine that is away, or hangs: nothing of that is the instance's failure.
    async fn until_it_answers(&self, last: &LastAnswer, engine: &Engine) {
        let mut waited = false;
        while let Some(answer) = self.unless_unwanted(last.or_ask(engine)).await {
            let Err(why) = answer else { break };
            waited = true;
            self.tell(Phase::Preparing(Awaited::Engine { why })).await;
            tokio::time::sleep(AGAIN).await;
        }
        if waited {
            self.tell(Phase::Starting).await;
        }
    }

    /// The loop is gone: nobody waits for it.
    async fn tell(&self, phase: Phase) {
        drop(self.told.send(Event::Prepares(self.spec.id.clone(), phase)).await);
    }

    fn is_unwanted(&self) -> bool {
        self.unwanted.load(Ordering::Relaxed)
    }

    async fn unless_unwanted<T>(&self, comes: impl Future<Output = T>) -> Option<T> {
        let gone = async {
            while !self.is_unwanted() {
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            biased;
            () = gone => None,
            it = comes => Some(it),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixListener;

    use bowline_core::id::InstanceId;

    use super::*;
    use crate::driver::fake;

    /// Takes connections, and answers nobody until it is dropped.
    fn hangs(folder: &std::path::Path) -> (Engine, std::thread::JoinHandle<usize>) {
        let socket = folder.join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = std::thread::spawn(move || {
            let mut asked = 0;
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut first = [0; 4];
                if connection.read(&mut first).unwrap() == 0 {
                    return asked;
                }
                asked += 1;
                drop(connection);
            }
            asked
        });
        (Engine::at(socket), asked)
    }

    #[tokio::test]
    async fn all_who_wait_for_an_engine_hear_of_one_question_and_who_is_not_wanted_waits_no_more() {
        let root = tempfile::tempdir().unwrap();
        let (engine, asked) = hangs(root.path());
        let context = Arc::new(fake::context(root.path(), engine.clone()));
        let (told, mut hears) = mpsc::channel(1000);
        let unwanted = Arc::new(AtomicBool::new(false));
        let waiting: Vec<_> = (0..200)
            .map(|slot| {
                let spec = Arc::new(fake::spec(&format!("local/shop.web.r3.{slot}.1")));
                let (context, unwanted, told) = (Arc::clone(&context), Arc::clone(&unwanted), told.clone());
                tokio::spawn(async move {
                    let waiting = Waiting { context: &context, spec: &spec, unwanted: &unwanted, told: &told };
                    waiting.wait().await.is_some()
                })
            })
            .collect();
        let mut heard = std::collections::BTreeSet::<InstanceId>::new();
        while heard.len() < 200 {
            let Some(Event::Prepares(id, Phase::Preparing(Awaited::Engine { why }))) = hears.recv().await else {
                panic!("something else was told")
            };
            assert!(why.contains("no container engine answers at"), "{why}");
            heard.insert(id);
        }
        unwanted.store(true, Ordering::Relaxed);
        for one in waiting {
            assert!(!one.await.unwrap(), "it has no turn");
        }
        drop(std::os::unix::net::UnixStream::connect(engine.socket()).unwrap());
        let asked = tokio::task::spawn_blocking(move || asked.join().unwrap()).await.unwrap();
        assert!(asked < 20, "{asked} questions");
    }

    #[tokio::test]
    async fn who_has_no_image_waits_for_its_turn() {
        let root = tempfile::tempdir().unwrap();
        let (engine, _asked, _folder) = crate::engine::fake::engine(&[("GET /_ping", 200, "OK")]);
        let context = Arc::new(fake::context(root.path(), engine));
        let making = Arc::clone(&context.engines.as_ref().unwrap().of.making);
        let others = Arc::clone(&making).lock_owned().await;
        let (told, mut hears) = mpsc::channel(10);
        let (spec, unwanted) = (Arc::new(fake::spec("local/shop.web.r3.0.1")), AtomicBool::new(false));
        let waiting = Waiting { context: &context, spec: &spec, unwanted: &unwanted, told: &told };
        let (turn, ()) = tokio::join!(waiting.wait(), async {
            let heard = hears.recv().await;
            assert!(matches!(heard, Some(Event::Prepares(_, Phase::Preparing(Awaited::Turn)))));
            drop(others);
        });
        assert!(turn.is_some() && making.try_lock().is_err());
    }
}
