//! What the peer's side of a link says to ours, in order; kept until the link listens.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Messages that may wait for a link that does not listen yet.
const EARLY_MAX: usize = 256;

/// Called with each message, in order, on the thread that reads the session: it must not block, and not run the
/// caller's code. It should hold its link weakly, since the session holds the inbox.
pub type Listener = Arc<dyn Fn(Bytes) + Send + Sync>;

/// One per link, made before either side can speak.
#[derive(Clone, Default)]
pub struct Inbox(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    listener: Option<Listener>,
    early: VecDeque<Bytes>,
    closed: bool,
}

impl Inbox {
    /// Gets what has come so far, and from then on each message as it comes.
    pub fn listen(&self, listener: Listener) {
        loop {
            let early = {
                let mut state = self.lock();
                if state.closed {
                    return;
                }
                if state.early.is_empty() {
                    state.listener = Some(listener);
                    return;
                }
                std::mem::take(&mut state.early)
            };
            early.into_iter().for_each(|message| listener(message));
        }
    }

    /// A message has come. `false`: too many wait, the peer breaks the protocol.
    pub fn deliver(&self, message: Bytes) -> bool {
        let listener = {
            let mut state = self.lock();
            match &state.listener {
                Some(listener) => Arc::clone(listener),
                None if state.closed => return true,
                None if state.early.len() >= EARLY_MAX => return false,
                None => {
                    state.early.push_back(message);
                    return true;
                }
            }
        };
        listener(message);
        true
    }

    /// The link is over: lets go of its listener, and forgets what comes later.
    pub fn close(&self) {
        let _dropped = {
            let mut state = self.lock();
            state.closed = true;
            (state.listener.take(), std::mem::take(&mut state.early))
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("early", &self.lock().early.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn messages_that_came_early_come_first() {
        let inbox = Inbox::default();
        assert!(inbox.deliver(Bytes::from_static(b"1")));
        assert!(inbox.deliver(Bytes::from_static(b"2")));
        let (sender, heard) = mpsc::channel();
        inbox.listen(Arc::new(move |message| sender.send(message).unwrap()));
        assert!(inbox.deliver(Bytes::from_static(b"3")));
        let all: Vec<Bytes> = heard.try_iter().collect();
        assert_eq!(all, [&b"1"[..], b"2", b"3"]);
    }

    #[test]
    fn a_peer_that_floods_a_silent_inbox_is_told_off() {
        let inbox = Inbox::default();
        assert!((0..EARLY_MAX).all(|_| inbox.deliver(Bytes::new())));
        assert!(!inbox.deliver(Bytes::new()));
    }

    #[test]
    fn a_closed_inbox_lets_go_of_its_listener() {
        let inbox = Inbox::default();
        let held = Arc::new(());
        let inside = Arc::clone(&held);
        inbox.listen(Arc::new(move |_| drop(Arc::clone(&inside))));
        inbox.close();
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(inbox.deliver(Bytes::new()));
    }
}
