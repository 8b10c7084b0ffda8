"""Helpers that are not about detection."""
