mod life;
mod model;
mod pushing;

use ropeway::{Auth, Incarnation, LeaseName};
use serde_json::{Value, json};

use super::*;

fn owner(life: u64) -> Owner {
    let addresses = vec!["10.0.0.1:20001".parse().expect("an address")];
    Owner { addresses, incarnation: Incarnation::new(life).expect("from 1"), auth: Auth::Insecure }
}

/// A scheduler half that both lends and pulls, whose lease names count up.
fn scheduler() -> Scheduler {
    let mut drawn = 0;
    let draw = move || {
        drawn += 1;
        Ok(LeaseName { key: drawn, secret: 0 })
    };
    let setup = Setup {
        role: Role::Both,
        engine_id: "0".to_owned(),
        sizes: (1, 1, 1),
        backoff: 0,
        metaservers: None,
    };
    let mut scheduler = Scheduler::new(setup, Box::new(draw));
    scheduler.set_owner(owner(1));
    scheduler
}

fn produce() -> Value {
    json!({"do_remote_decode": true, "do_remote_prefill": false})
}

/// What another instance, of that life, says of a prompt that it computed.
fn computed(life: u64, blocks: &[Vec<u32>], tokens: u32) -> Value {
    let owner = owner(life);
    let lease = LeaseName { key: life, secret: 9 };
    let lent = Lent {
        owner: &owner,
        engine_id: "0",
        lease,
        request: "there",
        block_ids: blocks,
        tokens,
        sizes: (1, 1, 1),
    };
    lent.to_value()
}
