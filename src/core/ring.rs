//! A bounded queue from one thread to another one in which nobody ever waits:
//! for what a real-time thread hands out.
//!
//! Each slot has a mutex of its own, which by the protocol is never contended:
//! the producer touches a slot only before it is published by `tail`, the
//! consumer only afterwards and before it is given back by `head`. So a thread
//! that is preempted in the middle of a push holds up nobody; with the usual
//! channels the other side may spin or park until that push is complete.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

/// Makes a ring with room for `capacity` items, at least one.
#[must_use]
pub fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let slots = (0..capacity.max(1)).map(|_| Mutex::new(None)).collect();
    let shared = Arc::new(Shared {
        slots,
        head: AtomicUsize::new(0),
        tail: AtomicUsize::new(0),
    });
    let producer = Producer {
        shared: shared.clone(),
    };
    (producer, Consumer { shared })
}

#[derive(Debug)]
struct Shared<T> {
    slots: Box<[Mutex<Option<T>>]>,
    /// Items taken and items put in, since the beginning; both wrap.
    head: AtomicUsize,
    tail: AtomicUsize,
}

impl<T> Shared<T> {
    /// Exchanges what is in a slot that belongs to the calling side.
    fn exchange(&self, index: usize, item: &mut Option<T>) -> bool {
        let slot = self.slots[index % self.slots.len()].try_lock();
        let mut slot = match slot {
            Ok(slot) => slot,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        std::mem::swap(&mut *slot, item);
        true
    }
}

/// The side that puts items in.
#[derive(Debug)]
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Producer<T> {
    /// Puts an item in. Never waits.
    ///
    /// # Errors
    /// When the ring is full: gives the item back.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        let tail = self.shared.tail.load(Ordering::Relaxed);
        let taken = self.shared.head.load(Ordering::Acquire);
        let mut item = Some(item);
        let has_room = tail.wrapping_sub(taken) < self.shared.slots.len();
        if has_room && self.shared.exchange(tail, &mut item) {
            let tail = tail.wrapping_add(1);
            self.shared.tail.store(tail, Ordering::Release);
        }
        match item {
            Some(item) => Err(item),
            None => Ok(()),
        }
    }
}

/// The side that takes items out.
#[derive(Debug)]
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Consumer<T> {
    /// Takes the oldest item. Never waits.
    pub fn pop(&mut self) -> Option<T> {
        let head = self.shared.head.load(Ordering::Relaxed);
        if head == self.shared.tail.load(Ordering::Acquire) {
            return None;
        }
        let mut item = None;
        if self.shared.exchange(head, &mut item) {
            let head = head.wrapping_add(1);
            self.shared.head.store(head, Ordering::Release);
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out_once_and_in_order_from_another_thread() {
        let (mut producer, mut consumer) = ring(7);
        let items = 20_000_u32;
        let feeding = std::thread::spawn(move || {
            for item in 0..items {
                while producer.push(item).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < items {
            match consumer.pop() {
                Some(item) => {
                    assert_eq!(item, expected);
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        feeding.join().unwrap();
        assert_eq!(consumer.pop(), None);
    }

    #[test]
    fn a_full_ring_gives_the_item_back() {
        let (mut producer, mut consumer) = ring(2);
        assert_eq!((producer.push(1), producer.push(2)), (Ok(()), Ok(())));
        assert_eq!(producer.push(3), Err(3));
        assert_eq!(consumer.pop(), Some(1));
        assert_eq!(producer.push(3), Ok(()));
        assert_eq!((consumer.pop(), consumer.pop()), (Some(2), Some(3)));
        assert_eq!(consumer.pop(), None);
    }
}
