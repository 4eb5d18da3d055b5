"""How decisions leave: each behind the second gate of consent."""
