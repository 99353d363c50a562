//! The producer writes, layer by layer, while it computes.

use std::ops::Range;

use super::*;
use crate::worker::tickets::FailedLoad;

pub(super) const PROXY: &str = "http://proxy:1";

/// 80 tokens: two blocks and a half.
const PROMPT: u64 = 80;
const THERE: [u32; 3] = [5, 1, 7];
const HERE: [u32; 3] = [2, 6, 3];

struct Pair {
    producer: Running,
    consumer: Running,
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + WAIT;
    while !ready() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Running {
    /// Waits for a prompt of which `here` tokens are there, without telling the workers; what goes to the metaserver.
    fn ask(&mut self, here: u64) -> Value {
        let params = json!({"do_remote_prefill": true, "metaserver": format!("{PROXY}/v1/metaserver")});
        self.scheduler.on_new_request(NewRequest { id: "d", params: &params });
        let matched = self.scheduler.matched("d", PROMPT, here);
        assert_eq!((matched.tokens, matched.asynchronous), (PROMPT - here, true));
        self.scheduler.allocated("d", vec![HERE.to_vec()], PROMPT - here);
        let asks = self.scheduler.take_asks();
        assert_eq!(asks[0].url, format!("{PROXY}/v1/metaserver"));
        asks[0].body.clone()
    }

    fn expect(&mut self, here: u64) -> Value {
        let body = self.ask(here);
        self.step();
        body
    }

    fn aim(&mut self, params: &Value) {
        self.scheduler.on_new_request(NewRequest { id: "p", params });
        assert!(self.scheduler.is_pushing("p"));
        self.step();
    }

    /// Tells of a step that computes up to `end`.
    fn step_to(&mut self, more: &[u32], end: u64) {
        self.scheduler.computing("p", vec![more.to_vec()], end);
        self.step();
    }

    /// The bytes of a layer's tokens are there.
    fn compute(&self, layer: u32, tokens: Range<u64>) {
        for token in tokens {
            let (block, slot) = (token as usize / SLOTS, token as usize % SLOTS);
            for head in 0..HEADS {
                let (region, at) = self.token(layer, THERE[block], slot, head);
                region.fill(at, CONTENT as u64, mark(layer, THERE[block], head)).unwrap();
            }
        }
    }

    /// And the layer is told of.
    fn layer(&self, layer: u32, tokens: Range<u64>) {
        self.compute(layer, tokens);
        self.ranks.iter().for_each(|(worker, _)| worker.layer_computed(layer, &Start::Now));
    }

    fn stepped(&self) {
        self.ranks.iter().for_each(|(worker, _)| worker.step_computed(&Start::Now));
    }

    fn finish(&mut self, how: Finish) {
        let finished = self.scheduler.finished("p", how, vec![THERE.to_vec()], PROMPT);
        assert_eq!((finished.keep_blocks, finished.params), (true, None));
        self.step();
    }

    fn sent(&self) {
        let mut sent = 0;
        wait("the report of a producer", || {
            sent += self.ranks.iter().map(|(worker, _)| worker.poll().reports.sent.len()).sum::<usize>();
            sent == self.ranks.len()
        });
        self.ranks.iter().for_each(|(worker, _)| assert_eq!(worker.open(), (0, 0)));
    }

    fn received(&self) -> Vec<FailedLoad> {
        let (mut received, mut failed) = (0, Vec::new());
        wait("the report of a consumer", || {
            for (worker, _) in &self.ranks {
                let reports = worker.poll().reports;
                received += reports.received.len();
                failed.extend(reports.failed);
            }
            received == self.ranks.len()
        });
        self.ranks.iter().for_each(|(worker, _)| assert_eq!(worker.open(), (0, 0)));
        failed
    }

    /// Whether those tokens of a layer are the producer's, and nothing else of it was written.
    fn has(&self, layer: u32, tokens: Range<u64>) -> bool {
        let mut bytes = vec![0; CONTENT];
        let every = (0..BLOCKS as u32).flat_map(|block| {
            (0..SLOTS).flat_map(move |slot| (0..HEADS).map(move |head| (block, slot, head)))
        });
        every.into_iter().all(|(block, slot, head)| {
            let (region, at) = self.token(layer, block, slot, head);
            region.read(at, &mut bytes).unwrap();
            let place = HERE.iter().position(|here| *here == block);
            let token = place.map(|place| (place * SLOTS + slot) as u64);
            let is = match token.filter(|token| tokens.contains(token)) {
                Some(token) => mark(layer, THERE[token as usize / SLOTS], head),
                None => 0,
            };
            bytes.iter().all(|byte| *byte == is)
        })
    }
}

impl Pair {
    fn open() -> Self {
        Self::over(TransportKind::Loopback)
    }

    fn over(transport: TransportKind) -> Self {
        let open = || Running::over(transport, HND, 1, "float32");
        Self { producer: open(), consumer: open() }
    }

    /// A prompt whose first chunk was computed, sent and has come.
    fn half_way(transport: TransportKind) -> Self {
        let mut pair = Self::over(transport);
        let params = pair.consumer.expect(0);
        pair.producer.aim(&params);
        pair.producer.step_to(&THERE, 64);
        (0..LAYERS).for_each(|layer| pair.producer.layer(layer, 0..64));
        pair.producer.stepped();
        wait("the first chunk", || (0..LAYERS).all(|layer| pair.consumer.has(layer, 0..64)));
        pair
    }
}

#[test]
fn every_layer_is_there_before_the_next_is_computed_whatever_the_ranks() {
    for (producers, consumers) in [(1, 1), (2, 2), (1, 2), (2, 1), (4, 2), (2, 4)] {
        for here in [0, 32] {
            let case = format!("{producers} to {consumers}, {here} here");
            let (mut producer, mut consumer) =
                (Running::open(producers, "float32"), Running::open(consumers, "float32"));
            let params = consumer.expect(here);
            producer.aim(&params);
            // A chunk that ends within a block: what is whole goes.
            producer.step_to(&THERE[..2], 40);
            for layer in 0..LAYERS {
                producer.layer(layer, 0..40);
                if here == 0 {
                    wait(&case, || consumer.has(layer, 0..32));
                }
                (layer + 1..LAYERS).for_each(|later| assert!(consumer.has(later, 0..0), "{case}"));
            }
            producer.stepped();
            producer.step_to(&THERE[2..], PROMPT);
            for layer in 0..LAYERS {
                producer.layer(layer, 40..PROMPT);
                wait(&case, || consumer.has(layer, here..64));
            }
            producer.stepped();
            producer.finish(Finish::Complete);
            assert_eq!(consumer.received(), [], "{case}");
            (0..LAYERS).for_each(|layer| assert!(consumer.has(layer, here..PROMPT), "{case}: layer {layer}"));
            producer.sent();
        }
    }
}

#[test]
fn a_framework_that_tells_of_no_layer_sends_each_step_at_its_end() {
    let Pair { mut producer, mut consumer } = Pair::open();
    let params = consumer.expect(0);
    producer.aim(&params);
    producer.step_to(&THERE, PROMPT);
    assert!(producer.ranks[0].0.is_pushing());
    (0..LAYERS).for_each(|layer| producer.compute(layer, 0..PROMPT));
    producer.stepped();
    assert!(!producer.ranks[0].0.is_pushing());
    producer.finish(Finish::Complete);
    assert_eq!(consumer.received(), []);
    (0..LAYERS).for_each(|layer| assert!(consumer.has(layer, 0..PROMPT)));
    producer.sent();
}

#[test]
fn what_was_computed_before_the_consumer_is_reached_goes_then() {
    let Pair { mut producer, mut consumer } = Pair::open();
    let params = consumer.ask(0);
    producer.aim(&params);
    producer.step_to(&THERE, PROMPT);
    (0..LAYERS).for_each(|layer| producer.layer(layer, 0..PROMPT));
    producer.stepped();
    producer.finish(Finish::Complete);
    for _ in 0..10 {
        assert!(producer.ranks[0].0.poll().reports.is_empty(), "its blocks are still needed");
        std::thread::sleep(Duration::from_millis(3));
    }
    // Only now do the consumer's workers hear of it.
    consumer.step();
    assert_eq!(consumer.received(), []);
    (0..LAYERS).for_each(|layer| assert!(consumer.has(layer, 0..PROMPT)));
    producer.sent();
}

#[test]
fn a_producer_that_gives_up_half_way_fails_the_load_and_gets_its_blocks_back() {
    for transport in [TransportKind::Loopback, TransportKind::Cma, TransportKind::Tcp] {
        let Pair { mut producer, consumer } = Pair::half_way(transport);
        producer.finish(Finish::Broken);
        let failed = consumer.received();
        assert!(failed[0].failure.text.contains("gave up"), "{transport}: {failed:?}");
        assert_eq!(failed[0].ask.local, [HERE.to_vec()], "vLLM is told which blocks hold nothing");
        producer.sent();
    }
}

#[test]
fn a_producer_that_gives_up_before_it_has_reached_the_consumer_says_so() {
    let Pair { mut producer, mut consumer } = Pair::open();
    let params = consumer.expect(0);
    producer.scheduler.on_new_request(NewRequest { id: "p", params: &params });
    producer.scheduler.computing("p", vec![THERE.to_vec()], 64);
    producer.finish(Finish::Broken);
    assert!(consumer.received()[0].failure.text.contains("gave up"), "not by word");
    producer.sent();
}

#[test]
fn blocks_that_vllm_takes_from_a_preempted_prompt_are_read_no_more() {
    let Pair { mut producer, consumer } = Pair::half_way(TransportKind::Tcp);
    producer.scheduler.preempted("p");
    assert!(!producer.scheduler.is_pushing("p"), "computed again, it is not sent");
    producer.step();
    assert!(producer.ranks[0].0.inner.ledger().pushes.is_empty(), "the step may begin: nothing is read");
    assert!(producer.ranks[0].0.poll().reports.is_empty(), "vLLM did not keep them");
    assert!(consumer.received()[0].failure.text.contains("gave up"));
    // Computed again, it ends like any other.
    producer.finish(Finish::Complete);
    producer.sent();
}

#[test]
fn nothing_is_written_to_blocks_that_a_consumer_took_back() {
    for transport in [TransportKind::Loopback, TransportKind::Cma, TransportKind::Tcp] {
        let Pair { mut producer, mut consumer } = Pair::half_way(transport);
        consumer.scheduler.finished("d", Finish::Broken, vec![HERE.to_vec()], 0);
        consumer.step();
        assert_eq!(consumer.received(), [], "{transport}: an abort is no failure");
        let (region, at) = consumer.token(1, HERE[2], 0, 0);
        region.fill(at, CONTENT as u64, 0xee).unwrap();
        producer.step_to(&[], PROMPT);
        (0..LAYERS).for_each(|layer| producer.layer(layer, 64..PROMPT));
        producer.stepped();
        producer.finish(Finish::Complete);
        producer.sent();
        let mut bytes = vec![0; CONTENT];
        region.read(at, &mut bytes).unwrap();
        assert_eq!(bytes, [0xee; CONTENT], "{transport}: somebody else's now");
    }
}

#[test]
fn a_side_that_is_gone_gives_the_other_its_blocks_back() {
    let Pair { producer, consumer } = Pair::half_way(TransportKind::Tcp);
    drop(producer);
    let failed = consumer.received();
    assert_eq!(failed.len(), 1, "a dead producer fails the load");

    let Pair { mut producer, consumer } = Pair::half_way(TransportKind::Tcp);
    drop(consumer);
    producer.step_to(&[], PROMPT);
    producer.stepped();
    producer.finish(Finish::Complete);
    producer.sent();
}

#[test]
fn a_proxy_that_cannot_be_told_fails_the_load_at_once() {
    let Pair { mut consumer, producer: _producer } = Pair::open();
    consumer.expect(0);
    consumer.scheduler.ask_failed("d", "connection refused");
    consumer.step();
    let failed = consumer.received();
    assert!(failed[0].failure.text.contains("no producer was told"), "{failed:?}");
}

#[test]
fn blocks_that_were_not_opened_are_not_written_whatever_the_request_says() {
    let Pair { mut producer, mut consumer } = Pair::open();
    let mut params = consumer.expect(32);
    // The first block is shared with other requests.
    params["remote_cached_tokens"] = json!(0);
    producer.aim(&params);
    producer.step_to(&THERE, PROMPT);
    (0..LAYERS).for_each(|layer| producer.layer(layer, 0..PROMPT));
    producer.stepped();
    producer.finish(Finish::Complete);
    assert!(consumer.received()[0].failure.text.contains("gave up"));
    (0..LAYERS).for_each(|layer| assert!(consumer.has(layer, 0..0)));
    producer.sent();
}

#[test]
fn what_would_have_to_be_put_in_order_is_refused_by_name() {
    let narrow = Order { slots: 16, nhd: false };
    let mapper = mapper(json!({}));
    let Err(refused) = mapper.aim(&about_of(narrow, 2, "float32").to_value()) else {
        panic!("nothing can put them in order")
    };
    assert_eq!(refused.kind, ErrorKind::Mismatch);
    let told = refused.text.contains("arrangement of layers.0.kv") && refused.text.contains("pull");
    assert!(told, "{}", refused.text);
}
