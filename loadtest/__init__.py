"""Residents, merchants and walks of a made-up city, and the load that they put on a server."""
