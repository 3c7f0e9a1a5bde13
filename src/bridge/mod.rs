//! Joins SIP, media, workers and the queue: one driver task per call.
