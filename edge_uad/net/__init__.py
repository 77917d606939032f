"""Messages between programs, their endpoints and keys."""
