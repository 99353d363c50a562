use super::*;
use crate::{ClusterKey, Engine};

fn engine() -> Engine {
    Engine::builder().cluster_key(ClusterKey::new(&[7; 32]).unwrap()).open().unwrap()
}

// The clock stands still while anything can go on, so that a slow machine is no silent peer.
#[tokio::test(start_paused = true)]
async fn a_session_that_ended_is_read_to_the_end_so_that_its_last_words_are_not_reset() {
    let (engine, peer) = (engine(), engine());
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let serving = tokio::spawn(accepted(Arc::downgrade(engine.shared()), ours, None));
    let met = secure::initiate(theirs, &peer.shared().psk, None).await.unwrap();
    let mut met = meet(peer.shared(), met, Side::Client, None).await.unwrap();
    // Its last words are queued here, and leave by the session's own tasks.
    let enlisted = loop {
        match engine.shared().all_peers().pop() {
            Some(peer) => break peer,
            None => tokio::task::yield_now().await,
        }
    };
    engine.shared().close_peer(&enlisted, "a test's end");
    let mut words = 0;
    while let Some(record) = met.reader.next().await.unwrap() {
        words += record.len();
    }
    assert_ne!(words, 0, "why the session ended");
    // Said before these were heard, as far as the engine can know. A closed socket would reset the connection.
    met.writer.as_mut().unwrap().send(&vec![0; 4 << 20]).await.expect("read to the end");
    assert!(!serving.is_finished());
    drop(met);
    serving.await.unwrap().unwrap();
}

#[test]
fn the_thread_of_a_closed_engine_stays_until_its_sessions_streams_are_closed() {
    let engine = engine();
    let (go, going) = tokio::sync::oneshot::channel();
    let (done, finished) = std::sync::mpsc::channel();
    let using = engine.shared().control.use_stream();
    engine.shared().control.spawn(async move {
        let _using = using;
        going.await.unwrap();
        // A thread that was told to stop and stays for nothing is gone long before.
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        done.send(()).unwrap();
    });
    assert!(engine.close(Duration::from_secs(60)).unwrap().held.is_empty());
    go.send(()).unwrap();
    finished.recv_timeout(Duration::from_secs(60)).expect("the stream's task runs to its end");
}
