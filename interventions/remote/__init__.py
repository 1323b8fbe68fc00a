"""Requests to an NDIF server."""
