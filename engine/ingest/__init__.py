"""One file for each sender's format: bytes in, Ping out; nothing behind it knows the sender."""
