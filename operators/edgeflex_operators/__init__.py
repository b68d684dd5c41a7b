"""Operators: pure computation on messages, one node kind per file."""
