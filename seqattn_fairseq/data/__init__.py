"""Corpus preparation: fetch, verify, unpack, clean, tokenise, segment, record."""
