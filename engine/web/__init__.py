"""The HTTP service: one route table, keys and roles, problem+json, and the API's description."""
