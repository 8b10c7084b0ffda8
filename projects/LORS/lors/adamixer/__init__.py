"""AdaMixer's parts; they know the bank, not how it stores its weights."""

from lors.adamixer.decoder import Decoder
from lors.adamixer.queries import Queries

__all__ = ["Decoder", "Queries"]
