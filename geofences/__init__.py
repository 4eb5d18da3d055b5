"""WHERE: fences, and which of them cover a position. Pure; knows nothing of offers or people."""
