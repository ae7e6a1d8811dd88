"""Protocols of the literature: how each splits an archive, and how it reads its labels."""
