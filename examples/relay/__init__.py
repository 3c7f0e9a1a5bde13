"""ConversationRelay as a worker: see ../relay.py, which starts it."""
