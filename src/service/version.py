"""The versions of Depot and of its HTTP API."""

VERSION = "0.2.0"
API_VERSION = "1"
"""Increased only by an incompatible change of the HTTP API (docs/compatibility.md)."""
