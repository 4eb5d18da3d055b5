"""The residents' say: lanes, records, the compiled row, the rule, and how changes are made."""
