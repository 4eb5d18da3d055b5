"""A client for whoever builds an app or a gateway: it needs msgspec, and aiohttp to send."""
