//! The WebSocket to the worker: accept (queue mode) and dial (push mode).
