"""Which offer, to whom, when: the book, the caps, the choice and the codes."""
