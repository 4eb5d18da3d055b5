"""Who may be told what: the decision engine and the service around it. Start at pipeline.py."""
