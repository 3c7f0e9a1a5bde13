//! Legs that end while others use their slot.

use loom::thread;

use crate::core::sync::Arc;
use crate::slots::Slots;

/// A leg's two parts, each saying which leg made it.
type Legs = Slots<u32, u32>;

fn table() -> Arc<Legs> {
    Arc::new(Legs::new(1))
}

#[test]
fn a_leg_is_ended_once_and_the_count_never_falls_below_nothing() {
    loom::model(|| {
        let legs = table();
        let leg = legs.ensure_open(0, || (1, 1)).unwrap();
        let others = Arc::clone(&legs);
        let ender = thread::spawn(move || others.take(leg).is_some());
        let here = legs.take(leg).is_some();
        assert!(legs.live() <= 1, "{}", legs.live());
        assert!(here != ender.join().unwrap(), "ended once");
        assert_eq!((legs.live(), legs.current(0)), (0, None));
    });
}

/// pjsua opens a leg on one of its threads; another may know the call at once, by
/// its number.
#[test]
fn a_leg_that_is_ended_as_it_opens_is_counted_in_before_it_is_counted_out() {
    loom::model(|| {
        let legs = table();
        let others = Arc::clone(&legs);
        let ender = thread::spawn(move || {
            let ended = others.current(0).and_then(|leg| others.take(leg)).is_some();
            (ended, others.live())
        });
        legs.ensure_open(0, || (1, 1)).unwrap();
        let (ended, live) = ender.join().unwrap();
        assert!(live <= 1, "{live}");
        assert_eq!(legs.live(), usize::from(!ended));
    });
}

#[test]
fn two_that_open_a_slot_at_once_have_the_same_leg() {
    loom::model(|| {
        let legs = table();
        let others = Arc::clone(&legs);
        let opener = thread::spawn(move || others.ensure_open(0, || (1, 1)));
        let here = legs.ensure_open(0, || (2, 2)).unwrap();
        let there = opener.join().unwrap().unwrap();
        assert_eq!(here, there);
        assert_eq!(legs.live(), 1);
        let call = legs.with(here, |call| *call);
        assert_eq!(call, legs.with_media(here, |media| *media), "of one leg");
    });
}

/// A packet of a call that ends, while the slot is given to another call.
#[test]
fn what_comes_late_for_a_leg_never_reaches_the_next_one() {
    loom::model(|| {
        let legs = table();
        let old = legs.ensure_open(0, || (1, 1)).unwrap();
        let others = Arc::clone(&legs);
        let media_thread = thread::spawn(move || {
            let media = others.with_media(old, |media| std::mem::replace(media, 9));
            assert!(media.is_none_or(|media| media == 1), "{media:?}");
            let call = others.with(old, |call| *call);
            assert!(call.is_none_or(|call| call == 1), "{call:?}");
        });
        assert!(legs.take(old).is_some());
        let new = legs.ensure_open(0, || (2, 2)).unwrap();
        assert_ne!(old, new);
        media_thread.join().unwrap();
        assert_eq!(legs.with_media(new, |media| *media), Some(2));
        assert_eq!(legs.with(new, |call| *call), Some(2));
        assert_eq!(legs.with(old, |call| *call), None);
    });
}

/// The lock of the call part is held while that of the media part is taken: nobody
/// may do it the other way round.
#[test]
fn no_two_threads_wait_for_each_other() {
    loom::model(|| {
        let legs = table();
        let old = legs.ensure_open(0, || (1, 1)).unwrap();
        let others = Arc::clone(&legs);
        let other = thread::spawn(move || {
            others.take(old);
            others.ensure_open(0, || (2, 2));
        });
        legs.with_media(old, |media| *media += 1);
        legs.which(|_| true);
        other.join().unwrap();
    });
}
