//! With bytes left out, posting costs what checking costs: every rule is still kept, and nothing is moved.

mod links;

use links::*;

#[test]
fn without_data_a_transfer_is_checked_over_at_once_and_moves_nothing() {
    machine("a2", r#","move_data":false"#);
    let two = Two::linked(&[CLIENT_SERVER]);
    fill(two.here.va, 4096, 1);
    fill(two.there.va, 4096, 2);
    let before = bytes(two.there.va, 4096);
    let descs: Vec<_> = (0..1024).map(|i| two.desc(i * 4096, 4096)).collect();
    let request = two.near.post(&two.far, WRITE, &descs, 0).unwrap();
    assert_eq!(two.near.status(request), (SUCCESS, COMPLETED), "at once");
    assert_eq!(bytes(two.there.va, 4096), before);
    let outside = SimHixlDesc { remote: two.there.va + two.there.len, ..descs[0] };
    assert_eq!(two.near.post(&two.far, WRITE, &[descs[0], outside], 0), Err(PARAM_INVALID));
    let rounds = 200;
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        let request = two.near.post(&two.far, WRITE, &descs, 0).unwrap();
        assert_eq!(two.near.status(request), (SUCCESS, COMPLETED));
    }
    let each = start.elapsed().as_nanos() / (rounds * descs.len() as u128);
    // Not asserted: what a run costs here, for whoever reads the log.
    let mut log = std::io::stderr();
    let _ = std::io::Write::write_fmt(&mut log, format_args!("posting, no data: {each} ns a descriptor\n"));
}
