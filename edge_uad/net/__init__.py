"""What passes between programs: messages, addresses, keys."""
