//! Memory while one key is stuck.

use bench::gates::stuck_key;

/// P2, issue B: one stuck key never grows memory past the window, whatever comes behind it.
///
/// Red when a partition reads on while its window is full.
#[test]
fn one_stuck_key_holds_no_more_than_the_window() {
    let (window, batch) = (1_000, 128);
    for count in [5_000, 50_000] {
        let stuck = stuck_key(count, window, batch).unwrap();
        println!("{count} events: {stuck:?}");
        assert!(stuck.in_flight <= window, "{stuck:?}");
        assert!(stuck.ended > 0, "other keys go on until the window is full: {stuck:?}");
        // Batches that the window reaches into, one that waits for room, one in the channel, one in the reader's hand.
        assert!(stuck.held <= window + 4 * batch, "{stuck:?}");
    }
}
