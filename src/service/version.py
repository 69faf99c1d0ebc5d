"""The version of Depot."""

VERSION = "0.2.0"
