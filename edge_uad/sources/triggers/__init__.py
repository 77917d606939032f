"""Triggers: which frame belongs to which, the queue that holds both, and the socket that takes them from senders."""
